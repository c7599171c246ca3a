"""Killed trainings resume from their newest checkpoints.

They end bit for bit like uninterrupted ones:

    pytest -m crash tests/training/test_crash.py      # takes minutes; -s prints the steps

63 SIGKILLs hit training, saving, evaluating and fine-tuning after pruning, for several models and numbers of workers. A kill costs no more
than the steps since the newest checkpoint.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_training import ToyData, make_components, make_run_dir, settings, train, weights_hash

from segzoo.api import create_model
from segzoo.checkpoints.serialization import read_model
from segzoo.checkpoints.store import latest_valid
from segzoo.registry import LOSSES, PRUNERS

ROOT = Path(__file__).parents[2]
KILLS = 10  # per case
CASES = [("toy", 0), ("toy", 2), ("icnet", 1), ("pspnet", 0), ("fcn", 2), ("pruned icnet", 1)]
STEPS = {"toy": 1500}  # long enough for ten kills; other models train for 240 steps
OPTIONS: dict[str, Any] = {"save_every": 2, "eval_every": 6, "keep_checkpoints": 2}


class LargeData(ToyData):
    """Images of 72x96, large enough for deep backbones."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        image, label = (array.repeat(3, 0).repeat(3, 1) for array in (sample.image, sample.label))
        return sample._replace(image=image, label=label)


def build_components(model: str):
    if model == "toy":
        return make_components()
    torch.manual_seed(3)
    net = create_model(model.split()[-1], backbone={"name": "resnet50", "width": 0.125}, num_classes=3)
    loss = LOSSES.build("cross_entropy", net.aux_weights, net.align_corners, 255, "label")
    components = make_components(model=net, loss=loss, train_set=LargeData(10), val_set=LargeData(3, first=100))
    if model.startswith("pruned"):
        components.pruner = PRUNERS.build("taylor", keep_schedule=[0.75, 0.5], start=0.2)
    return components


def run_child(directory: Path, model: str, workers: int) -> None:
    """Train and write the hash of the weights.

    Runs in a child process.
    """
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    components = build_components(model)
    train(components, make_run_dir(directory), **settings(**OPTIONS, workers=workers, steps=STEPS.get(model, 240)))
    (directory / "hash").write_text(weights_hash(components.model))


def start_pruning(directory: Path, full: Path, *overrides: str) -> subprocess.Popen:
    """Start ``tools/prune.py`` in a session of its own."""
    quick = [
        "sensitivity=false",
        "bench_runtimes=[]",
        "bench_hw=[64,96]",
        "augment=none",
        "precision=fp32",
        "device=cpu",
        "pruner=taylor",
    ]
    command = [
        sys.executable,
        "tools/prune.py",
        f"ckpt={full}",
        f"out={directory}",
        *quick,
        *overrides,
        "steps=60",
        "batch_size=2",
        "save_every=2",
        "eval_every=20",
        "workers=0",
    ]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


@pytest.fixture(scope="module")
def start_training():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_crash", "torch.utils.tensorboard", "tqdm", "yaml", "cv2", "torch._dynamo"])

    def start(directory: Path, model: str, workers: int):
        child = context.Process(target=run_child, args=(directory, model, workers))
        child.start()
        return child

    return start


def kill(child) -> None:
    child.kill()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join(60)


def newest_step(directory: Path) -> int:
    checkpoint = latest_valid(directory)[0]
    return -1 if checkpoint is None else int(checkpoint.name)


def wait_for(directory: Path, step: int, child) -> None:
    """Wait until the run has a checkpoint of the step or ends."""
    deadline = time.time() + 120
    while newest_step(directory) < step and child.is_alive():
        assert time.time() < deadline, "no checkpoint"
        time.sleep(0.01)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model, workers", CASES)
def test_ten_kills_change_nothing(tmp_path, start_training, model, workers):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    child = start_training(whole, model, 0)
    wait_for(whole, 0, child)
    started = time.time()
    child.join(600)
    assert child.exitcode == 0
    interval = (time.time() - started) / KILLS  # spreads the kills over the run on any machine
    rng, reached, steps = np.random.default_rng(len(model) + workers), 0, []
    while len(steps) < KILLS:
        child = start_training(killed, model, workers)
        wait_for(killed, reached + len(steps) % 2, child)  # every second time, for a newer checkpoint
        time.sleep(rng.uniform(0.05, 0.9) * interval)
        kill(child)
        if (killed / "hash").exists():
            break
        assert child.exitcode == -signal.SIGKILL
        after = newest_step(killed)
        assert after >= reached, "a checkpoint was lost"
        steps.append(reached := after)
    child = start_training(killed, model, workers)
    child.join(600)
    print(f"{model}, {workers} workers: {len(steps)} kills; the newest checkpoints were at steps {steps}")
    assert len(steps) == KILLS, "the run ended too early: make it longer"
    assert len(set(steps)) >= KILLS // 2, "the kills were too close together: make the run longer"
    assert (killed / "hash").read_text() == (whole / "hash").read_text()
    logs = [[json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()] for directory in (whole, killed)]
    scores = [[(row["step"], row["mIoU"]) for row in log if row["split"] == "val"] for log in logs]
    assert scores[0] == scores[1]


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_pruning_tool_resumes_after_kills(tmp_path):
    full = tmp_path / "full"
    data = ["data=parts", "data.train_images=6", "data.val_images=2", "data.height=64", "data.width=96"]
    overrides = [
        "model=icnet",
        "backbone.width=0.125",
        *data,
        "steps=2",
        "batch_size=2",
        "workers=0",
        "augment=none",
        f"out={full}",
    ]
    subprocess.run([sys.executable, "tools/train.py", *overrides, "precision=fp32", "device=cpu"], cwd=ROOT, check=True)
    assert start_pruning(tmp_path / "whole", full).wait(600) == 0
    for step in (0, 8, 30):
        child = start_pruning(tmp_path / "killed", full, "resume=auto")
        deadline = time.time() + 300
        while newest_step(tmp_path / "killed") < step:
            assert child.poll() is None and time.time() < deadline, "it ended before it was killed"
            time.sleep(0.005)
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    assert start_pruning(tmp_path / "killed", full, "resume=auto").wait(600) == 0
    (expected, expected_meta), (actual, meta) = (read_model(latest_valid(tmp_path / run)[0]) for run in ("whole", "killed"))  # type: ignore[arg-type]
    assert expected_meta["widths"] == meta["widths"] and expected_meta["step"] == meta["step"] == 60
    assert all(torch.equal(tensor, actual[name]) for name, tensor in expected.items())
    reports = [json.loads((tmp_path / run / "result.json").read_text())["report"] for run in ("whole", "killed")]
    assert reports[0] == reports[1]
