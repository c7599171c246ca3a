"""A run resumes without the weight file that it started from."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
import yaml
from tiny_run import TINY_RUN
from tool_jobs import job
from toy_training import INFO, Toy

from segzoo.checkpoints.serialization import read_model
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.config.checks.early import early_errors
from segzoo.config.checks.output import with_own_weights
from segzoo.registry import ConfigError

SMALL = ("model=fcn_dilated", "backbone=resnet50", "backbone.width=0.125", "precision=fp32", "device=cpu", "augment=none")


@pytest.fixture
def run(tmp_path) -> Path:
    save_checkpoint(tmp_path / "run", 2, Toy(), {"step": 2}, {}, INFO, {})
    return tmp_path / "run"


def settings(key: str, pruner: str = "none", **changed) -> dict:
    sections = {"init": {"name": "checkpoint", "ckpt": None, "narrow": "l1"}, "backbone": {"name": "resnet50", "weights": "none"}}
    section, name = key.split(".")
    sections[section][name] = "gone.pth"
    return sections | {"pruner": {"name": pruner}, "resume": "none", "out": None} | changed


@pytest.mark.parametrize("key", ["init.ckpt", "backbone.weights"])
def test_the_checkpoint_of_the_run_stands_for_missing_weights(run, tmp_path, key):
    newest = str(run / "checkpoints/2")
    for location in ({"resume": "auto", "out": str(run)}, {"resume": str(run)}, {"resume": newest, "out": str(tmp_path / "fork")}):
        config = with_own_weights(settings(key, **location))
        assert (
            config["init"] == {"name": "checkpoint", "ckpt": newest, "narrow": "none"} and config["backbone"]["weights"] == "none"
        )
        assert not any("gone.pth" in error for error in early_errors("train", config))


@pytest.mark.parametrize("key", ["init.ckpt", "backbone.weights"])
def test_missing_weights_that_are_needed_are_reported(run, tmp_path, key):
    cases = (
        (settings(key), f"{key}=gone.pth: there is no such file or directory"),
        (settings(key, resume="auto"), "To continue a run that has begun with it, set resume=<run directory>."),
        (settings(key, resume=str(run), pruner="l1"), "A run that prunes needs it to resume: put it back"),
        (settings(key, resume="auto", out=str(tmp_path / "new")), "there is no such file"),
        (settings(key, resume="a\0"), "null byte"),
        (settings(key, resume="x" * 300), "a path has at most"),
    )
    for config, expected in cases:
        assert with_own_weights(config) == config
        assert expected in str(early_errors("train", config))


def train(*overrides: str) -> dict:
    return importlib.import_module("segzoo.tools.train").train(job("train", *SMALL, *TINY_RUN[1:], *overrides))


@pytest.mark.integration
@pytest.mark.parametrize("key", ["init.ckpt", "backbone.weights"])
def test_a_run_resumes_after_its_weights_are_gone(tmp_path, key):
    first, out = tmp_path / "first", tmp_path / "out"
    train("steps=1", "data.mean=[100,100,100]", "data.std=[50,50,50]", f"out={first}")
    words = [f"{key}={first}", "normalization=weights", f"out={out}", "resume=auto"]
    train("steps=1", *words)
    shutil.rmtree(first)
    assert train("steps=2", *words)["steps"] == 2
    assert read_model(out / "checkpoints/2")[1]["dataset"]["mean"] == [100, 100, 100]
    section, name = key.split(".")
    assert yaml.safe_load((out / "config.yaml").read_text())[section][name] == str(first)
    with pytest.raises(ConfigError, match="no such file or directory"):
        train("steps=2", *words[:2], f"out={tmp_path / 'new'}")
