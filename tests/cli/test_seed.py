"""``seed`` alone determines the initial weights and the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SMALL = [
    "model=icnet_half",
    "backbone.width=0.125",
    "steps=2",
    "batch_size=2",
    "workers=0",
    "num_val_images=0",
    "device=cpu",
    "precision=fp32",
    "data.train_images=4",
    "data.val_images=2",
    "data.height=64",
    "data.width=64",
]


def start(tool: str, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, f"tools/{tool}.py", *overrides], cwd=ROOT, text=True, stderr=subprocess.PIPE)


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / str(step) / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.integration
def test_two_processes_with_the_same_command_agree_bit_for_bit(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    finish(*[start("train", *SMALL, f"out={run}") for run in runs])
    for step in (0, 2):
        assert equal(weights(runs[0], step), weights(runs[1], step))


def initial_weights(seed: int, name: str = "pspnet") -> dict[str, torch.Tensor]:
    from segzoo.cli.app import resolve_config
    from segzoo.cli.overrides import parse_overrides
    from segzoo.config.build_training import build_training

    overrides = [f"model={name}", "backbone.width=0.125", f"seed={seed}"]
    config, recorded = resolve_config(parse_overrides("train", overrides).jobs[0])
    return build_training(config, recorded).model.state_dict()


@pytest.mark.integration
def test_initial_weights_depend_on_the_seed_alone():
    first = initial_weights(0)
    torch.rand(17)  # the state of the global generator must not matter
    again, other = initial_weights(0), initial_weights(1)
    assert equal(first, again) and not equal(first, other)


@pytest.mark.slow
def test_the_order_of_a_sweep_changes_no_job(tmp_path):
    orders = {"forward": "model=fcn_dilated,pspnet", "reversed": "model=pspnet,fcn_dilated"}
    finish(*[start("train", "-m", *SMALL[1:], models, f"hydra.sweep.dir={tmp_path / name}") for name, models in orders.items()])
    for step in (0, 2):
        assert equal(weights(tmp_path / "forward" / "0", step), weights(tmp_path / "reversed" / "1", step))
        assert equal(weights(tmp_path / "forward" / "1", step), weights(tmp_path / "reversed" / "0", step))
