"""A job builds its model only once, besides one for validation."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_run import TINY_RUN

from segzoo.registry import MODELS
from tools import prune, train

pytestmark = pytest.mark.integration

TINY = ["model=fcn_dilated", "backbone.width=0.125", "device=cpu", "precision=fp32", *TINY_RUN]


def built_devices(monkeypatch, tool, *overrides: str) -> list[str]:
    """Run a tool in this process.

    Returns:
        The device of each model that it builds.
    """
    devices: list[str] = []
    original = MODELS.build

    def build(name, *objects, **settings):
        devices.append(torch.empty(0).device.type)
        return original(name, *objects, **settings)

    monkeypatch.setattr(MODELS, "build", build)
    monkeypatch.setattr(sys, "argv", [f"{tool.__name__}.py", *overrides])
    tool.main()
    return devices


def test_a_training_builds_one_real_and_one_meta_model(tmp_path, monkeypatch):
    assert built_devices(monkeypatch, train, *TINY, f"out={tmp_path / 'run'}") == ["meta", "cpu"]


def test_each_job_of_a_sweep_builds_the_same(tmp_path, monkeypatch):
    devices = built_devices(monkeypatch, train, "-m", *TINY, "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert sorted(devices) == ["cpu", "cpu", "meta", "meta"]


def test_pruning_a_checkpoint_trains_the_model_that_it_loaded(tmp_path, monkeypatch):
    full = tmp_path / "full"
    built_devices(monkeypatch, train, *TINY, f"out={full}")
    quick = [override for override in TINY if not override.startswith(("model", "backbone", "data"))]
    devices = built_devices(
        monkeypatch,
        prune,
        f"ckpt={full}",
        *quick,
        "sensitivity=false",
        "bench_runtimes=[]",
        "bench_hw=[64,64]",
        f"out={tmp_path / 'cut'}",
    )
    assert devices.count("cpu") == 2, "the checkpoint's model, and the fine-tuned one for the report"
