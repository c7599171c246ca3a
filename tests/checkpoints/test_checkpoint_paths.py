"""Every checkpoint setting resolves and verifies the same paths."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import segzoo
from segzoo.checkpoints.paths import split_run_and_step
from segzoo.checkpoints.serialization import read_metadata
from segzoo.checkpoints.store import set_pointer
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.cli.app import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build_training import build_training
from segzoo.registry import INITS, ConfigError
from segzoo.runs.open_run import open_run
from segzoo.types import DatasetInfo
from segzoo.weights import load_backbone

CLASSES = ("background", "part")
PATHS = ("", "checkpoints", "checkpoints/best", "checkpoints/last", "checkpoints/7", "checkpoints/7/model.safetensors")


def build_model() -> Any:
    return segzoo.create_model("fcn_dilated", {"name": "resnet50", "width": 0.125}, num_classes=2)


def build_distillation(path: Path) -> Any:
    overrides = ["model=fcn_dilated", "backbone.width=0.125", "distill=teacher", f"distill.ckpt={path}", "data=folder"]
    overrides += [
        "data.root=/",
        "data.classes=[background,part]",
        'data.images="{split}/{stem}.*"',
        'data.labels="{split}/{stem}.png"',
    ]
    return build_training(*resolve_config(parse_overrides("train", overrides).jobs[0]))


READERS = {
    "ckpt": lambda path: segzoo.load(path),
    "init.ckpt": lambda path: INITS.build("checkpoint", build_model(), CLASSES, ckpt=str(path)),
    "backbone.weights": lambda path: load_backbone(build_model().backbone, str(path)),
    "distill.ckpt": build_distillation,
    "metadata": read_metadata,
}

every_path = pytest.mark.parametrize(
    ("name", "path"),
    [
        pytest.param(name, path, marks=[pytest.mark.integration] if name == "distill.ckpt" and path else [])  # builds a training
        for name in READERS
        for path in PATHS
    ],
)


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    parsed = resolve_config(parse_overrides("train", ["model=fcn_dilated", "backbone.width=0.125"]).jobs[0])[0]
    config = {name: parsed[name] for name in ("model", "backbone")} | {"data": {"name": "folder"}}
    save_checkpoint(run, 7, build_model(), {}, config, DatasetInfo("parts", CLASSES, ((0, 0, 0), (9, 9, 9))), {})
    set_pointer(run, "best", 7)
    return run


@every_path
def test_every_setting_accepts_every_path(saved_run, name, path):
    assert READERS[name](saved_run / path) is not None


@pytest.mark.parametrize("path", PATHS)
def test_resume_accepts_every_path(saved_run, path, tmp_path):
    run, step = split_run_and_step(saved_run / path)
    assert run == saved_run and step in (None, saved_run / "checkpoints/7")
    opened = open_run("train", "x", {}, tmp_path, out=str(tmp_path / "out"), resume=str(saved_run / path))
    assert opened.resume_from == saved_run / "checkpoints/7"


@every_path
def test_every_setting_rejects_one_flipped_bit(saved_run, tmp_path, name, path):
    run = shutil.copytree(saved_run, tmp_path / "run")
    file = run / "checkpoints/7/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="checksum differs"):
        READERS[name](run / path)


@pytest.mark.parametrize("name", READERS)
def test_every_setting_rejects_an_unfinished_checkpoint(saved_run, tmp_path, name):
    run = shutil.copytree(saved_run, tmp_path / "run")
    (run / "checkpoints/7/manifest.json").unlink()
    with pytest.raises(ConfigError, match="unfinished"):
        READERS[name](run)


def test_weights_outside_a_run_cannot_be_resumed(saved_run, tmp_path):
    moved = shutil.copy(saved_run / "checkpoints/7/model.safetensors", tmp_path / "moved.safetensors")
    assert torch.is_tensor(next(iter(segzoo.load(moved).parameters())))
    with pytest.raises(ConfigError, match=r"cannot be resumed; start from it with init\.ckpt="):
        split_run_and_step(moved)
