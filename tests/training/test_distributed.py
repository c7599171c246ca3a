"""Several processes train as one: the same weights, the same scores, one run directory. Gloo on the CPU."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_training import Toy, make_components, make_run_dir, settings, train

from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.registry import PRUNERS, ConfigError

HELPERS = Path(__file__).parents[1] / "helpers"


def ranks(code: str, size: int = 2, expect: int | None = 0, **more: str) -> list[str]:
    """Runs the code in ``size`` processes that know of each other; what each printed."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    running = []
    for rank in range(size):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        env = os.environ | {k: str(v) for k, v in place.items()} | {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(HELPERS)} | more
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        running.append(process)
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert expect is None or [process.returncode for process in running] == [expect] * size, "\n".join(printed)
    return printed


TRAIN = """
from pathlib import Path
import torch
from dataclasses import replace
from toy_training import SETTINGS, Toy, make_components
from segzoo.runs.run_dir import RunDir
from segzoo.checkpoints.store import latest_valid
from toy_training import train
from segzoo.distributed import init_distributed
torch.set_num_threads(1)
with init_distributed("cpu") as world:
    folder = Path({folder!r})
    if world.is_main: folder.mkdir(parents=True, exist_ok=True)
    world.run_on_rank0(lambda: None)
    run = RunDir(folder, latest_valid(folder)[0])
    torch.manual_seed(3)
    components = make_components(model=Toy(norm={norm}, drop={drop}))
    if {pruner!r}:
        from segzoo.registry import PRUNERS
        values = torch.arange(8.0) * (1 - 2 * world.rank)  # rank 1 would drop the last filters, where rank 0 drops the first
        worth = lambda model, *_: lambda slot: values[: len(model.get_parameter(slot.name))]
        components.pruner = replace(PRUNERS.build({pruner!r}, keep_schedule=[0.75, 0.5], start=0.25), importance=worth)
    result = train(components, run, world, **SETTINGS | {given})
    print(world.rank, result["miou"])
"""


def train_on(folder: Path, given: dict, norm: bool = False, drop: float = 0.0, pruner: str = "") -> list[str]:
    """What two ranks print that train; with a pruner, each of them would remove other channels if it were asked."""
    return ranks(TRAIN.format(folder=str(folder), given=given, norm=norm, drop=drop, pruner=pruner))


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.crash), 2])
def test_two_ranks_end_with_the_weights_of_the_joint_batch(tmp_path, accumulate):
    """Labels ignore unequal shares of their images, so a mean of the ranks' means would end elsewhere. Without batch norm, whose
    statistics are each rank's own, and dropout, whose numbers are."""
    words: dict[str, Any] = {"steps": 8, "eval_every": 4, "grad_accum_steps": accumulate}
    printed = train_on(tmp_path / "two", words | {"batch_size": 2, "workers": 0})
    torch.manual_seed(3)
    alone = make_components(model=Toy(norm=False, drop=0.0))
    result = train(alone, make_run_dir(tmp_path / "one"), **settings(**words, batch_size=4))
    assert {line.split()[1] for text in printed for line in text.splitlines() if line[0] in "01" and len(line.split()) == 2} == {
        str(result["miou"])
    }
    two, one = (read_model(tmp_path / name / "checkpoints/8")[0] for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    scores = [json.loads((tmp_path / name / "eval/summary.json").read_text()) for name in ("two", "one")]
    assert scores[0]["miou"] == scores[1]["miou"] and scores[0]["images"] == scores[1]["images"] == 3
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-5)


def test_two_ranks_prune_alike_and_go_on(tmp_path):
    words: dict[str, Any] = {"steps": 8, "eval_every": 4, "save_every": 1, "keep_checkpoints": 99}
    train_on(tmp_path / "two", words | {"batch_size": 2, "workers": 0}, pruner="l1")
    shutil.copytree(
        tmp_path / "two", tmp_path / "cut", ignore=lambda _, names: [n for n in names if n in "5678" or n in ("last", "best")]
    )
    train_on(tmp_path / "cut", words | {"batch_size": 2, "workers": 0}, pruner="l1")  # from between its stages
    torch.manual_seed(3)
    alone = make_components(model=Toy(norm=False, drop=0.0))
    rising = torch.arange(8.0)
    alone.pruner = dataclasses.replace(
        PRUNERS.build("l1", keep_schedule=[0.75, 0.5], start=0.25),
        importance=lambda model, *_: lambda slot: rising[: len(model.get_parameter(slot.name))],
    )
    train(alone, make_run_dir(tmp_path / "one"), **settings(**words, batch_size=4))
    one, two, cut = (read_model(tmp_path / name / "checkpoints/8") for name in ("one", "two", "cut"))
    assert one[1]["widths"] == two[1]["widths"] == {"backbone.0": 4}
    for name, tensor in one[0].items():
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-4, atol=1e-6)
        assert torch.equal(two[0][name], cut[0][name])


@pytest.mark.crash
def test_two_ranks_resume_bit_for_bit_and_keep_every_ranks_random_numbers(tmp_path):
    words = {"workers": 0, "batch_size": 2}
    train_on(tmp_path / "whole", words | {"steps": 6, "eval_every": 3, "save_every": 3}, norm=True, drop=0.2)
    train_on(tmp_path / "cut", words | {"steps": 6, "eval_every": 3, "save_every": 3}, norm=True, drop=0.2)
    for name in ("6", "last", "best"):  # as if it had been killed after step 3
        path = tmp_path / "cut/checkpoints" / name
        subprocess.run(["rm", "-r", str(path)], check=True)
    train_on(tmp_path / "cut", words | {"steps": 6, "eval_every": 3, "save_every": 3}, norm=True, drop=0.2)
    whole, cut = (read_model(tmp_path / name / "checkpoints/6")[0] for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    states = read_trainer(tmp_path / "whole/checkpoints/6")["rng"]
    assert len(states) == 2 and not torch.equal(states[0]["cpu"], states[1]["cpu"])


@pytest.mark.crash
def test_fewer_ranks_go_on_where_more_stopped(tmp_path, capsys):
    train_on(tmp_path, {"steps": 4, "eval_every": 4, "workers": 0, "batch_size": 2})
    components = make_components(model=Toy(norm=False, drop=0.0))
    train(components, make_run_dir(tmp_path), **settings(steps=6))
    assert "2 processes wrote the checkpoint, 1 go on from it, after 16 images" in capsys.readouterr().out
    assert read_trainer(tmp_path / "checkpoints/6")["images_seen"] == 24


OPEN = """
from pathlib import Path
from segzoo.runs.open_run import open_run_distributed
from segzoo.distributed import init_distributed
with init_distributed("cpu") as world:
    try:
        run = open_run_distributed(world, "train", "toy", {{"lr": 1 + {differ} * world.rank}}, Path({root!r}), out={out!r})
        print(world.rank, run.path, run.lock is not None)
    except Exception as error:
        print(world.rank, type(error).__name__, error)
"""


@pytest.mark.crash
def test_one_folder_for_all_and_one_error_for_all(tmp_path):
    zero, one = ranks(OPEN.format(differ=0, root=str(tmp_path), out=None))
    assert zero.splitlines()[-1].split()[1] == one.splitlines()[-1].split()[1]
    assert zero.split()[-1] == "True" and one.split()[-1] == "False"
    for text in ranks(OPEN.format(differ=1, root=str(tmp_path), out=None)):
        assert "ConfigError rank 1 was started with other settings" in text
    (tmp_path / "file").write_text("")
    for text in ranks(OPEN.format(differ=0, root=str(tmp_path), out=str(tmp_path / "file" / "run"))):
        assert "ConfigError out=" in text


BAD = """
from pathlib import Path
import torch
from toy_training import Toy, ToyLoss, make_components, make_run_dir, settings
from toy_training import train
from segzoo.distributed import init_distributed
class Bad(ToyLoss):
    calls = 0
    def terms(self, logits, label, weight=None):
        self.calls += 1
        factor = float("nan") if self.rank == 1 and self.calls == 2 else 1.0
        return super().terms(logits, label, weight) * factor
with init_distributed("cpu") as world:
    loss = Bad(); loss.rank = world.rank
    components = make_components(model=Toy(), loss=loss)
    folder = Path({folder!r})
    if world.is_main: make_run_dir(folder)
    world.run_on_rank0(lambda: None)
    train(components, make_run_dir(folder), world, **settings(steps=3, batch_size=2, max_nonfinite_steps=1))
"""


@pytest.mark.crash
def test_a_bad_number_on_one_rank_is_left_out_on_all(tmp_path):
    zero, one = ranks(BAD.format(folder=str(tmp_path)))
    line = next(line for line in zero.splitlines() if "skipped, 1 of 1" in line)
    assert "the loss is nan at step 2, on toy" in line and line.count("toy") == 2  # rank 1's two images alone
    assert "skipped" not in one
    assert all(tensor.isfinite().all() for tensor in read_model(tmp_path / "checkpoints/3")[0].values())


@pytest.mark.slow
def test_a_sweep_under_torchrun_is_refused():
    words = [sys.executable, "tools/train.py", "-m", "model=fcn,pspnet"]
    done = subprocess.run(words, cwd=HELPERS.parents[1], env=os.environ | {"WORLD_SIZE": "2"}, capture_output=True, text=True)
    assert done.returncode == 1 and "-m under torchrun" in done.stderr
    assert ConfigError.__name__ in done.stderr
