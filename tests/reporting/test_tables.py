"""Markdown tables, and the table of a sweep."""

from __future__ import annotations

import json
import re

import pytest

from segzoo.cli.training import format_requirements
from segzoo.reporting.numbers import format_count
from segzoo.reporting.tables import markdown_table, summarize_sweep


def sweep_table(folder, *rows):
    for number, row in enumerate(rows):
        (folder / str(number)).mkdir()
        (folder / str(number) / "result.json").write_text(json.dumps({"job": number} | row))
    table = summarize_sweep(folder)
    assert table == (folder / "table.md").read_text()
    assert [row["job"] for row in json.loads((folder / "table.json").read_text())] == list(range(len(rows)))
    lines = table.partition("\n\n")[0].splitlines()
    header, *cells = (
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if not line.startswith("| ---")
    )
    return [dict(zip(header, row, strict=True)) for row in cells], table


def row(rate, **values):
    overrides = ["model=icnet", "steps=5", f"optim.lr={rate}", "data.height=64"]
    return {"model": "icnet", "backbone": "resnet50", "data": "parts", "overrides": overrides, "protocol_id": "aa"} | values


def test_rows_are_ranked_and_show_the_overrides_that_differ(tmp_path):
    failed = row(3, error="ConfigError: a|b\nc")
    rows, table = sweep_table(tmp_path, row(0.1, miou=0.25, params=1200), failed, row(0.2, miou=0.5), row(0.3, miou=0.5))
    assert [line["job"] for line in rows] == ["2", "3", "0", "1"] and rows[3]["error"] == r"ConfigError: a\|b c"
    assert [line["overrides"] for line in rows] == ["optim.lr=0.2", "optim.lr=0.3", "optim.lr=0.1", "optim.lr=3"]
    assert [line["mIoU"] for line in rows] == ["0.5000 (best)", "0.5000", "0.2500", ""]
    assert {line["protocol"] for line in rows} == {"aa"} and "train min" not in rows[0] and "not comparable" not in table


def test_protocols_are_not_ranked_against_each_other(tmp_path):
    rows, table = sweep_table(tmp_path, row(1, miou=0.2), row(2, miou=0.9, protocol_id="bb"), row(3, miou=0.3))
    assert [line["mIoU"] for line in rows] == ["0.3000 (best)", "0.2000", "0.9000 (best)"]
    assert "scores of different protocols are not comparable" in table


def test_empty_columns_are_left_out(tmp_path):
    rows, _ = sweep_table(tmp_path, {"overrides": ["source=a"]})
    assert rows == [{"job": "0", "overrides": "source=a"}], "a single job shows all of its overrides"


def test_cells_stay_in_their_column():
    assert markdown_table(("a", "b"), [("x|y", "1\n2"), (None, 0)]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 2 |\n|  | 0 |\n"


def test_one_has_no_plural():
    assert [format_count(count, "step") for count in (0, 1, 2, "?")] == ["0 steps", "1 step", "2 steps", "? steps"]


@pytest.mark.parametrize(("hours", "text"), [(0.0041, "about 0.25 minutes"), (0.5, "about 30 minutes"), (2.5, "about 2.50 hours")])
def test_short_runs_take_minutes(hours, text):
    needs = {"peak_gb": 1.0, "have_gb": 2.0, "step_s": 0.1, "hours": hours, "fits": True}
    assert f"The run takes {text} without evaluations." in format_requirements(needs, 1)
