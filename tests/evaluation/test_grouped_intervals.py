"""Intervals over groups of dependent images."""

from __future__ import annotations

import pytest
import torch
from toy_training import INFO, Toy, ToyData

from segzoo.config.checks.early import early_errors
from segzoo.evaluation.bootstrap import bootstrap_miou, resample, sum_groups
from segzoo.evaluation.evaluator import Evaluation, evaluate
from segzoo.evaluation.report import write_summary
from segzoo.evaluation.score_table import read_score_table, score_table
from segzoo.registry import ConfigError
from segzoo.types import DataError
from segzoo.workflows.compare.evaluations import read_evaluation
from segzoo.workflows.report.sections import class_rows


def run(dataset: ToyData, group_by: str | None = None) -> Evaluation:
    """Score a network with random weights."""
    torch.manual_seed(1)
    return evaluate(Toy(), dataset, INFO, device="cpu", workers=0, group_by=group_by)


def test_the_images_of_a_group_are_drawn_together(tmp_path):
    dataset = ToyData(24)
    single, grouped = run(dataset), run(dataset, r"(\d)$")
    assert single.interval == bootstrap_miou(single.per_image_counts)
    by_digit = sum_groups(grouped.per_image_counts, [name[-1] for name in grouped.names])
    assert len(by_digit) == 10 and grouped.interval == bootstrap_miou(by_digit) != single.interval
    assert grouped.scores == single.scores and grouped.protocol_id == single.protocol_id
    for name, result, units in (("single", single, "images"), ("grouped", grouped, "10 groups of images")):
        summary = write_summary(tmp_path / name, result)
        table = read_score_table(tmp_path / name)
        assert f"(bootstrap over {units})" in table
        assert table == score_table(summary, result.per_image_counts, drawn=result.drawn_counts)
    low, high = resample(by_digit).interval(1) or (0, 0)
    interval = f"{100 * low:.1f} to {100 * high:.1f}"
    (row,) = [row for row in class_rows(read_evaluation(tmp_path / "grouped", "grouped")) if row.label == INFO.classes[0]]
    assert low < high and interval in table and interval in row.cells


def test_too_few_groups_have_no_interval(tmp_path):
    result = run(ToyData(12, first=195), r"(\d)\d*$")
    assert result.interval is None and len(result.drawn_counts) == 2
    write_summary(tmp_path, result)
    assert "no confidence interval from 2 groups of images: at least 10 are needed" in read_score_table(tmp_path)


def test_a_pattern_is_checked_before_torch_is_imported():
    (error,) = early_errors("eval", {"ckpt": "parts", "group_by": "x"})
    assert error.startswith("group_by='x': has no part in parentheses")
    assert early_errors("eval", {"ckpt": "parts", "group_by": "(x)"}) == []


@pytest.mark.parametrize("pattern, error", [("(zz)", DataError), ("zz", ConfigError), ("(zz", ConfigError)])
def test_groups_are_found_before_images_are_read(pattern, error):
    class Unread(ToyData):
        def __getitem__(self, index):
            raise AssertionError("read before the check")

    with pytest.raises(error, match="group_by="):
        run(Unread(3), pattern)
