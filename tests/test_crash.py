"""Fifty SIGKILLs: whatever a training was doing, it goes on from a whole checkpoint and ends with the unbroken run's bits.

    pytest -m crash tests/test_crash.py      # minutes; the figures are printed with -s

The kills fall on training, saving and evaluating alike, for several models and worker counts. What a kill may cost is the steps since
the newest checkpoint, and no more.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_kit import ToyData, make_parts, run_in, settings, weights_hash

from segzoo.engine.steps import latest_valid
from segzoo.engine.train import train
from segzoo.registry import LOSSES
from segzoo.zoo import create_model

KILLS = 10  # of each case
CASES = [("toy", 0), ("toy", 2), ("icnet", 1), ("pspnet", 0), ("fcn", 2)]
STEPS = {"toy": 1500}  # long enough for ten kills; the others take 240
WORDS: dict[str, Any] = {"save_every": 2, "eval_every": 6, "keep": 2}


class Large(ToyData):
    """Pictures of 72x96, which deep trunks can take."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        image, label = (part.repeat(3, 0).repeat(3, 1) for part in (sample.image, sample.label))
        return sample._replace(image=image, label=label)


def parts_of(model: str):
    if model == "toy":
        return make_parts()
    torch.manual_seed(3)
    net = create_model(model, backbone={"name": "resnet50", "width": 0.125}, num_classes=3)
    loss = LOSSES.build("cross_entropy", net.aux_weights, net.align_corners, 255, "label")
    return make_parts(model=net, loss=loss, train_set=Large(10), val_set=Large(3, first=100))


def run_child(folder: Path, model: str, workers: int) -> None:
    """What a process of its own runs; leaves the hash of the weights."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    parts = parts_of(model)
    train(parts, run_in(folder), **settings(**WORDS, workers=workers, steps=STEPS.get(model, 240)))
    (folder / "hash").write_text(weights_hash(parts.model))


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


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model, workers", CASES)
def test_ten_kills_lose_nothing(tmp_path, begin, model, workers):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    child = begin(whole, model, 0)
    child.join(300)
    assert child.exitcode == 0
    rng, reached, kills = np.random.default_rng(len(model) + workers), -1, 0
    while kills < KILLS:
        child = begin(broken, model, workers)
        until = time.time() + 120
        while newest(broken) < max(reached, 0) and child.is_alive():  # after start-up: the step-0 checkpoint, or what there was
            assert time.time() < until, "no checkpoint"
            time.sleep(0.01)
        time.sleep(rng.uniform(0.2, 1.2))
        kill(child)
        if (broken / "hash").exists():
            break
        assert child.exitcode == -signal.SIGKILL
        kills += 1
        after = newest(broken)
        assert after >= reached and after >= 0, "a checkpoint was lost"
        reached = after
    child = begin(broken, model, workers)
    child.join(300)
    print(f"{model}, {workers} workers: {kills} kills, the last one after step {reached}")
    assert kills == KILLS, "the run ended too early: make it longer"
    assert (broken / "hash").read_text() == (whole / "hash").read_text()
    logs = [[json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (whole, broken)]
    scores = [[(row["step"], row["mIoU"]) for row in log if row["split"] == "val"] for log in logs]
    assert scores[0] == scores[1]
