"""Steps that a resumed run has left, and the order in which old results come back."""

from __future__ import annotations

import os

import pytest

from segzoo.registry import ConfigError
from segzoo.runs import replaced_results
from segzoo.runs.config_diff import Difference
from segzoo.runs.resume_checks import check_progress

RATE = [Difference("optim.lr", "optim.lr: 0.1 -> 0.01", 0.01, 0.1)]
LONGER = [Difference("steps", "steps: 5 -> 10", 10, 5)]


def test_a_run_stopped_at_its_last_step_may_go_on_with_other_settings(tmp_path):
    config, newest = {"steps": 10}, tmp_path / "checkpoints/10"
    assert check_progress(tmp_path, config, RATE, newest) == 10, "its last step has yet to be scored"
    with pytest.raises(ConfigError, match="is at step 10 already. Set more steps"):
        check_progress(tmp_path, {"steps": 9}, RATE, newest)
    (tmp_path / "result.json").write_text('{"finished": true}')
    with pytest.raises(ConfigError, match="is at step 10 already. Set more steps"):
        check_progress(tmp_path, config, LONGER, newest)
    assert check_progress(tmp_path, {"steps": 11}, LONGER, newest) == 10


def test_the_result_that_marks_a_directory_as_finished_comes_back_last(tmp_path, monkeypatch):
    names = ["a.csv", "report.html", "summary.json", "z.csv"]
    for name in names:
        (tmp_path / name).write_text("old")
    replaced_results.set_aside(tmp_path, "eval", [tmp_path / name for name in names])
    moved, move = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: moved.append(target.name) or move(source, target))
    replaced_results.restore(tmp_path, "eval", "summary.json", [])
    assert sorted(moved) == names and moved[-1] == "summary.json"
