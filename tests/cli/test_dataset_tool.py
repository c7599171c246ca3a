"""tools/dataset.py, whichever action runs."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from dataset_actions import FOLDER, compose_action, run_action
from image_files import make_pairs, save

from segzoo.registry import ConfigError

tool = importlib.import_module("segzoo.tools.dataset")


def test_an_action_without_a_data_set_is_rejected():
    with pytest.raises(ConfigError, match="action=verify needs a data set"):
        compose_action()


def test_splits_that_do_not_exist_are_left_out(tmp_path):
    make_pairs(tmp_path / "my", "train/{stem}.png", "train_masks/{stem}.png")
    report = run_action(tmp_path / "out", *FOLDER, f"data.root={tmp_path / 'my'}", "data.classes=[a,b,c]")
    assert list(report.result["splits"]) == ["train"] and not report.errors


def test_the_exit_code_tells_an_invalid_data_set_from_an_invalid_command(tmp_path, monkeypatch, capsys):
    make_pairs(tmp_path / "my", "train/{stem}.png", "train_masks/{stem}.png")
    save(tmp_path / "my/train_masks/b.png", np.full((6, 8), 7, np.uint8))
    command = [*FOLDER, f"data.root={tmp_path / 'my'}", "data.classes=[a,b,c]", f"out={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["dataset.py", *command])
    with pytest.raises(SystemExit) as ended:
        tool.main()
    assert ended.value.code == 2
    assert "b.png" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/dataset.json").read_text())["errors"]
    with pytest.raises(SystemExit, match="already holds results of tools/dataset.py"):
        tool.main()


def test_a_data_set_without_splits_is_verified(tmp_path):
    make_pairs(tmp_path / "my", "images/{stem}.png", "labels/{stem}.png")
    patterns = ["data=folder", "data.images='images/{stem}.*'", "data.labels='labels/{stem}.png'"]
    report = run_action(tmp_path / "out", *patterns, f"data.root={tmp_path / 'my'}", "data.classes=[a,b,c]")
    assert list(report.result["splits"]) == ["all"] and not report.errors
    assert "separates train from val" in report.result["missing_splits"][0]
