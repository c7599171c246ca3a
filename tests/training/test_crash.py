"""Sixty-three SIGKILLs: whatever a training was doing, it goes on from a whole checkpoint and ends with the unbroken run's bits.

    pytest -m crash tests/training/test_crash.py      # minutes; the figures are printed with -s

The kills fall on training, saving, evaluating and fine-tuning after a cut alike, for several models and worker counts. What a kill may cost is the steps since
the newest checkpoint, and no more.
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
KILLS = 10  # of each case
CASES = [("toy", 0), ("toy", 2), ("icnet", 1), ("pspnet", 0), ("fcn", 2), ("pruned icnet", 1)]
STEPS = {"toy": 1500}  # long enough for ten kills; the others take 240
WORDS: dict[str, Any] = {"save_every": 2, "eval_every": 6, "keep_checkpoints": 2}


class Large(ToyData):
    """Images of 72x96, which deep backbones can take."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        image, label = (part.repeat(3, 0).repeat(3, 1) for part in (sample.image, sample.label))
        return sample._replace(image=image, label=label)


def parts_of(model: str):
    if model == "toy":
        return make_components()
    torch.manual_seed(3)
    net = create_model(model.split()[-1], backbone={"name": "resnet50", "width": 0.125}, num_classes=3)
    loss = LOSSES.build("cross_entropy", net.aux_weights, net.align_corners, 255, "label")
    components = make_components(model=net, loss=loss, train_set=Large(10), val_set=Large(3, first=100))
    if model.startswith("pruned"):
        components.pruner = PRUNERS.build("taylor", keep_schedule=[0.75, 0.5], start=0.2)
    return components


def run_child(folder: Path, model: str, workers: int) -> None:
    """What a process of its own runs; leaves the hash of the weights."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    components = parts_of(model)
    train(components, make_run_dir(folder), **settings(**WORDS, workers=workers, steps=STEPS.get(model, 240)))
    (folder / "hash").write_text(weights_hash(components.model))


def prune_tool(folder: Path, full: Path, *words: str) -> subprocess.Popen:
    """tools/prune.py, in a session of its own."""
    quick = [
        "sensitivity=false",
        "bench_runtimes=[]",
        "bench_hw=[64,96]",
        "augment=none",
        "precision=fp32",
        "device=cpu",
        "pruner=taylor",
    ]
    given = [
        f"ckpt={full}",
        f"out={folder}",
        *quick,
        *words,
        "steps=60",
        "batch_size=2",
        "save_every=2",
        "eval_every=20",
        "workers=0",
    ]
    return subprocess.Popen([sys.executable, "tools/prune.py", *given], cwd=ROOT, start_new_session=True)


@pytest.fixture(scope="module")
def begin():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_crash", "torch.utils.tensorboard", "tqdm", "yaml", "cv2", "torch._dynamo"])

    def start(folder: Path, model: str, workers: int):
        child = context.Process(target=run_child, args=(folder, model, workers))
        child.start()
        return child

    return start


def kill(child) -> None:
    child.kill()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.join(60)


def newest(folder: Path) -> int:
    found = latest_valid(folder)[0]
    return -1 if found is None else int(found.name)


def wait_for(folder: Path, step: int, child) -> None:
    """Until the run has a checkpoint of that step or a later one, or has ended."""
    until = time.time() + 120
    while newest(folder) < step and child.is_alive():
        assert time.time() < until, "no checkpoint"
        time.sleep(0.01)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model, workers", CASES)
def test_ten_kills_lose_nothing(tmp_path, begin, model, workers):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    child = begin(whole, model, 0)
    wait_for(whole, 0, child)
    started = time.time()
    child.join(600)
    assert child.exitcode == 0
    share = (time.time() - started) / KILLS  # of the unbroken run; so the kills spread over it on any machine
    rng, reached, killed = np.random.default_rng(len(model) + workers), 0, []
    while len(killed) < KILLS:
        child = begin(broken, model, workers)
        wait_for(broken, reached + len(killed) % 2, child)  # what there was, or every second time something newer
        time.sleep(rng.uniform(0.05, 0.9) * share)
        kill(child)
        if (broken / "hash").exists():
            break
        assert child.exitcode == -signal.SIGKILL
        after = newest(broken)
        assert after >= reached, "a checkpoint was lost"
        killed.append(reached := after)
    child = begin(broken, model, workers)
    child.join(600)
    print(f"{model}, {workers} workers: {len(killed)} kills; the newest checkpoints then were those of steps {killed}")
    assert len(killed) == KILLS, "the run ended too early: make it longer"
    assert len(set(killed)) >= KILLS // 2, "the kills fell too close together: make it longer"
    assert (broken / "hash").read_text() == (whole / "hash").read_text()
    logs = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (whole, broken)]
    scores = [[(row["step"], row["mIoU"]) for row in log if row["split"] == "val"] for log in logs]
    assert scores[0] == scores[1]


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_pruning_tool_is_killed_and_goes_on(tmp_path):
    full = tmp_path / "full"
    data = ["data=parts", "data.train_images=6", "data.val_images=2", "data.height=64", "data.width=96"]
    start = ["model=icnet", "backbone.width=0.125", *data, "steps=2", "batch_size=2", "workers=0", "augment=none", f"out={full}"]
    subprocess.run([sys.executable, "tools/train.py", *start, "precision=fp32", "device=cpu"], cwd=ROOT, check=True)
    assert prune_tool(tmp_path / "whole", full).wait(600) == 0
    for least in (0, 8, 30):
        child = prune_tool(tmp_path / "broken", full, "resume=auto")
        until = time.time() + 300
        while newest(tmp_path / "broken") < least:
            assert child.poll() is None and time.time() < until, "it ended before it was killed"
            time.sleep(0.005)
        os.killpg(child.pid, signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    assert prune_tool(tmp_path / "broken", full, "resume=auto").wait(600) == 0
    (wanted, kept), (found, widths) = (read_model(latest_valid(tmp_path / run)[0]) for run in ("whole", "broken"))  # type: ignore[arg-type]
    assert kept["widths"] == widths["widths"] and kept["step"] == widths["step"] == 60
    assert all(torch.equal(tensor, found[name]) for name, tensor in wanted.items())
    reports = [json.loads((tmp_path / run / "result.json").read_text())["report"] for run in ("whole", "broken")]
    assert reports[0] == reports[1]
