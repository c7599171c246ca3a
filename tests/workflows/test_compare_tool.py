"""tools/compare.py with runs, label maps, an ONNX file and a module."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra._internal.utils import get_args_parser
from image_files import noise, save
from onnx_files import write_onnx
from planted_evaluations import store_evaluation, store_run
from torch import nn

from segzoo.cli.hydra_limits import untyped_code_errors
from segzoo.cli.positional import name_positional_words, parse_arguments
from segzoo.workflows.compare.outside import load_module

tool = importlib.import_module("segzoo.tools.compare")

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Conv2d(3, 3, 1)

def text():
    return "no network"
"""
DATA = ("data=folder", "data.root=data", "data.classes=[road,car,sky]")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write images, label maps, and a network as module and ONNX file."""
    for index in range(12):
        image, rng = noise(16, 20, index), np.random.default_rng(index)
        label = rng.integers(0, 3, (16, 20), dtype=np.uint8)
        save(tmp_path / f"data/images/val/{index:02}.png", image)
        save(tmp_path / f"data/labels/val/{index:02}.png", label)
        save(tmp_path / f"other/{index:02}.png", np.where(rng.random(label.shape) < 0.1, 0, label).astype(np.uint8))
    (tmp_path / "mine_for_compare.py").write_text(CODE)
    torch.manual_seed(0)
    write_onnx(tmp_path / "net.onnx", nn.Conv2d(3, 3, 1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["compare.py", *words])
    tool.main()


@pytest.mark.integration
def test_outside_predictions_stand_in_one_table(folder, monkeypatch, capsys):
    words = ["net.onnx", "mine_for_compare:build", "preds={other: other}", *DATA, "workers=0", "device=cpu", "draws=1000"]
    run(monkeypatch, *words, "out=out")
    result = json.loads((folder / "out/compare.json").read_text())
    scores = {model["name"]: model["miou"] for model in result["models"]}
    assert scores.keys() == {"other", "net", "mine_for_compare:build"} and scores["other"] > 0.8
    assert scores["net"] == pytest.approx(scores["mine_for_compare:build"], abs=1e-3)  # the same weights
    verdicts = {(pair["first"], pair["second"]): pair["verdict"] for pair in result["pairs"]}
    assert verdicts["other", "net"] == "other is better" and verdicts["net", "mine_for_compare:build"] == "not resolved"
    assert "The protocol of other is unknown" in capsys.readouterr().out
    # what was scored is an evaluation directory, whose data the next comparison uses
    (folder / "out/evaluations/other/config.yaml").write_text(
        json.dumps({"data": {"name": "folder", "root": "${oc.env:SEGZOO_DATA,nowhere}/data", "classes": ["road", "car", "sky"]}})
    )
    monkeypatch.setenv("SEGZOO_DATA", str(folder))
    run(monkeypatch, "out/evaluations/other", "net.onnx", "workers=0", "device=cpu", "draws=1000", "out=again")
    again = json.loads((folder / "again/compare.json").read_text())
    assert {model["name"]: model["miou"] for model in again["models"]} == {name: scores[name] for name in ("other", "net")}


def test_settings_that_score_nothing_are_named(folder, monkeypatch, capsys):
    paths = [str(store_evaluation(folder / name, 1.0, number)) for number, name in enumerate("ab")]
    run(monkeypatch, *paths, "protocol.flip=true", "draws=1000", "out=out")
    assert "note: protocol.flip=True has no effect: every model has its scores" in capsys.readouterr().out
    run(monkeypatch, *paths, *DATA, "draws=1000", "out=with_data")
    assert "note: data=folder only shows images in report.html: every model has its scores" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="already holds results of tools/compare.py"):
        run(monkeypatch, *paths, "out=out")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to compare. Name two runs or more: tools/compare.py <run> <run>"),
        (["nowhere", *DATA], "runs: nowhere does not exist"),
        (["preds={other: nowhere}", *DATA], "preds.other=nowhere: there is no such folder"),
        (["preds={other: other}"], "the images and labels are unknown without a run. Set data=<name>"),
        (["modules=[mine]", *DATA], "modules: 'mine' is not a package.module:function"),
        (["preds={other: other}", *DATA], "a comparison needs two evaluations, found 1: other"),
        (["mine_for_compare:text", "net.onnx", *DATA], "mine_for_compare:text returns str, expected a torch.nn.Module"),
        (["mine_for_compare:missing", "net.onnx", *DATA], "the module mine_for_compare has no function missing"),
        (["nothing_such:build", "net.onnx", *DATA], "nothing_such:build cannot be imported"),
        (["other", *DATA], "other holds no evaluation"),
        (["net.onnx", "preds={net: other}", *DATA], "two models are named net. Choose another name in preds"),
        (["net.onnx", "group_by=x", *DATA], "group_by='x': has no part in parentheses"),
        (["net.onnx", "preds={other: other}", "baseline=nat", *DATA], "unknown baseline 'nat'. Did you mean 'net'"),
        (["net.onnx", "preds={other: other}", "'group_by=^(zz)'", *DATA], "group_by"),
    ],
)
def test_invalid_commands_say_what_to_type(folder, monkeypatch, words, message):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *words, "workers=0", "device=cpu")
    assert message in str(ended.value) and not list(folder.glob("**/evaluations"))  # nothing was scored in vain


def test_a_seed_is_no_baseline_of_models(folder, monkeypatch):
    for seed in range(2):
        store_run(folder / f"mine_seed{seed}", 1.0, seed=seed)
    words = ["mine_seed0", "mine_seed1", "preds={other: other}", *DATA, "workers=0", "baseline=mine_seed0"]
    with pytest.raises(SystemExit, match="unknown baseline 'mine_seed0'. Did you mean 'mine'"):
        run(monkeypatch, *words)
    assert not list(folder.glob("**/evaluations"))


def test_a_file_never_names_code_to_run(folder, monkeypatch):
    """Neither a configuration, nor a sweep, nor the environment."""
    (folder / "conf/data").mkdir(parents=True)
    section = "data: {name: folder, root: data, classes: [road, car, sky]}"
    (folder / "conf/data/evil.yaml").write_text(f"# @package _global_\nmodules: ['mine_for_compare:build']\n{section}\n")
    words = ["net.onnx", "data=evil", "workers=0"]
    with pytest.raises(SystemExit, match="modules: mine_for_compare:build is not on the command line"):
        run(monkeypatch, "--config-dir", "conf", *words)
    config = {"modules": ["a:b"]}
    assert untyped_code_errors(config, ["modules=[a:b]"], sweep=False) == []
    assert untyped_code_errors({"modules": []}, [], sweep=True) == []
    for overrides, sweep in (
        ([], False),
        (["modules=[${oc.env:X}]"], False),
        (["modules=[c:d]"], False),
        (["modules=[a:b]"], True),
    ):
        assert untyped_code_errors(config, overrides, sweep)


def test_modules_of_the_current_folder_hide_no_installed_package(folder, monkeypatch):
    (folder / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.setattr("sys.path", ["/nowhere", *sys.path])
    network = load_module("mine_for_compare:build", 3)
    inner: Any = network.network
    assert not inner.training and sys.path[0] == "/nowhere" and str(folder) == sys.path[-1]


def test_words_without_a_setting_become_runs_and_modules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    words = ["--config-dir", "conf", "runs/a b", "lr=0.1", "pkg.zoo:build", "force=true", "runs/c"]
    monkeypatch.setattr("sys.argv", ["compare.py", *words])
    name_positional_words()
    assert sys.argv[1:] == ["--config-dir", "conf", "force=true", 'runs=["runs/a b","lr=0.1",runs/c]', 'modules=["pkg.zoo:build"]']


@pytest.mark.parametrize("flag", [["--config-dir", "my/conf"], ["--config-dir=my/conf"], ["-cd", "my/conf"], ["-m"], []])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_flags_may_follow_overrides(flag, place, monkeypatch):
    words = ["model=fcn", "data=mine", "steps=3"]
    monkeypatch.setattr("sys.argv", ["train.py", *words[:place], *flag, *words[place:]])
    for _ in range(2):  # Hydra parses them again
        arguments = parse_arguments()
        assert arguments.overrides == words
        assert (arguments.config_dir, arguments.multirun) == ("my/conf" if "my/conf" in str(flag) else None, flag == ["-m"])
    assert get_args_parser().parse_args().overrides == words


def test_a_flag_between_runs_is_no_run(monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare.py", "runs/a", "--config-dir", "conf", "runs/b"])
    name_positional_words()
    assert sys.argv[1:] == ["--config-dir", "conf", "runs=[runs/a,runs/b]"]


@pytest.mark.parametrize("typed", ["runs=[b]", "+runs=[b]"])
def test_runs_are_named_in_one_way(typed, monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare.py", "a", typed])
    with pytest.raises(SystemExit, match="runs is given twice, as runs= and as a. Give all of them in one way"):
        name_positional_words()


@pytest.mark.integration
def test_a_file_with_the_name_of_a_run_gets_another(folder, monkeypatch):
    store_evaluation(folder / "net", 1.0)
    config = {"data": {"name": "folder", "root": str(folder / "data"), "classes": ["road", "car", "sky"]}}
    (folder / "net/config.yaml").write_text(json.dumps(config))
    run(monkeypatch, "net", "net.onnx", "workers=0", "device=cpu", "draws=1000", "force=true", "out=out")
    assert [model["name"] for model in json.loads((folder / "out/compare.json").read_text())["models"]] == ["net", "net 2"]
