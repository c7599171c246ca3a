"""``seed`` determines a run from its initial weights on, whatever the process did before."""

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


def start(tool: str, *words: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, f"tools/{tool}.py", *words], cwd=ROOT, text=True, stderr=subprocess.PIPE)


def finish(*processes: subprocess.Popen) -> None:
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / str(step) / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_two_processes_of_one_command_agree_bit_for_bit(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b", tmp_path / "other"]
    seeds = (0, 0, 1)
    finish(*[start("train", *SMALL, f"seed={seed}", f"out={run}") for seed, run in zip(seeds, runs, strict=True)])
    for step in (0, 2):
        assert same(weights(runs[0], step), weights(runs[1], step))
        assert not same(weights(runs[0], step), weights(runs[2], step))


def built(seed: int, name: str = "pspnet") -> dict[str, torch.Tensor]:
    from segzoo.cli.app import resolve_config
    from segzoo.cli.overrides import parse_overrides
    from segzoo.config.build_training import build_training

    words = [f"model={name}", "backbone.width=0.125", f"seed={seed}"]
    config, recorded = resolve_config(parse_overrides("train", words).jobs[0])
    return build_training(config, recorded).model.state_dict()


def test_initial_weights_depend_on_the_seed_alone():
    first = built(0)
    torch.rand(17)  # whatever ran before in this process
    again, other = built(0), built(1)
    assert same(first, again) and not same(first, other)


@pytest.mark.slow
def test_the_order_of_a_sweep_changes_no_job(tmp_path):
    orders = {"forth": "model=fcn_dilated,pspnet", "back": "model=pspnet,fcn_dilated"}
    finish(*[start("train", "-m", *SMALL[1:], word, f"hydra.sweep.dir={tmp_path / name}") for name, word in orders.items()])
    for step in (0, 2):
        assert same(weights(tmp_path / "forth" / "0", step), weights(tmp_path / "back" / "1", step))
        assert same(weights(tmp_path / "forth" / "1", step), weights(tmp_path / "back" / "0", step))
