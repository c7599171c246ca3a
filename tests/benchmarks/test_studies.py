"""Statistics of the benchmarks, and the runs that they may use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from planted_evaluations import store_evaluation
from scipy import stats

from benchmarks.accuracy.ablations import corrected
from benchmarks.accuracy.history import finished, train
from benchmarks.harness import camvid_drives
from benchmarks.harness.interleaved_timing import mean_interval


@pytest.mark.parametrize("count", [3, 12, 45, 80])
def test_the_interval_of_a_mean_is_that_of_scipy(count):
    values = np.random.default_rng(0).normal(size=count).tolist()
    expected = stats.t.interval(0.95, count - 1, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), *expected))


def test_p_values_are_corrected_for_the_pairs_shown():
    rows = [{"difference": 0.1, "interval": [0.0, 0.2], "single_p_value": p, "verdict": "old"} for p in (0.02, 0.2)]
    assert [(row["p_value"], row["verdict"]) for row in corrected(rows)] == [(0.04, "resolved"), (0.2, "not resolved")]


def test_runs_of_another_length_are_not_continued(tmp_path):
    run = tmp_path / "runs" / "icnet-0"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"steps": 240, "data": {}}))
    with pytest.raises(SystemExit, match=r"icnet-0 is a run of 240 steps, and history has 2400"):
        train("icnet", ("model=icnet",), "history", [0], tmp_path)
    with pytest.raises(SystemExit, match="of 240 steps"):
        finished("icnet", "history", [0], tmp_path)
    assert finished("icnet", "history_tenth", [0], tmp_path) == []


def test_successive_frames_form_blocks(tmp_path):
    folder = store_evaluation(tmp_path / "eval", 1.0, images=12)  # drive0_000 to drive2_011
    counts = np.load(folder / "per_image_counts.npy")
    blocks = camvid_drives.counts_by_block(Path(folder))
    assert (blocks == np.stack([counts[:4].sum(0), counts[4:8].sum(0), counts[8:10].sum(0), counts[10:].sum(0)])).all()
