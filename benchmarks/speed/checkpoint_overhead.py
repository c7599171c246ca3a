"""Checkpoint time compared with torch.save, and time to the first step.

segzoo writes weights and optimizer state to two files with checksums, flushes them to disk and reads them back; ``torch.save`` of the same
tensors does none of that. A training waits only until they are copied to memory. Calls are interleaved, in a temporary directory.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.interleaved_timing import compare_to_peer
from benchmarks.harness.models import NETWORKS
from benchmarks.harness.result_files import ROOT, write_result
from segzoo.api import create_model
from segzoo.checkpoints.background import BackgroundWriter
from segzoo.checkpoints.writing import prepare_checkpoint
from segzoo.data.dataset_info import make_dataset_info

ROUNDS, STARTS = 8, 3
MODELS = {
    "icnet_half": NETWORKS["icnet_half"],
    "pspnet": {"model": {"name": "pspnet"}, "backbone": {"name": "resnet50", "stem": "deep"}},
}
DATA = ("data=parts", "data.train_images=16", "data.val_images=2", "num_val_images=0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there are three fixed cases."""


def time_saving(name: str) -> list[dict[str, Any]]:
    """Time both ways to save a model with the state of AdamW.

    Returns:
        A row for the time that a training waits, and one for the time until the checkpoint is on disk.
    """
    config = MODELS[name]
    model = create_model(config["model"]["name"], backbone=config["backbone"], num_classes=19)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    info, state = make_dataset_info("bench", tuple(f"c{i}" for i in range(19)), None, (0, 0, 0), (1, 1, 1)), optimizer.state_dict()
    numbers = count()
    with tempfile.TemporaryDirectory() as folder, BackgroundWriter() as writer:
        run = Path(folder) / "run"

        def save_segzoo() -> None:
            writer.submit(prepare_checkpoint(run, next(numbers), model, {"optimizer": state}, {"model": config["model"]}, info, {}))

        def save_torch() -> None:
            torch.save({"model": model.state_dict(), "optimizer": state}, Path(folder) / f"plain-{next(numbers)}.pth")

        calls = {"waiting": save_segzoo, "writing": writer.wait, "torch": save_torch}
        taken: dict[str, list[float]] = {call: [] for call in calls}
        for _ in range(1 + ROUNDS):
            for call, function in calls.items():
                start = time.perf_counter()
                function()
                taken[call].append(time.perf_counter() - start)
        size = sum(path.stat().st_size for path in next((run / "checkpoints").glob("*/")).iterdir())
    waiting, writing, peer = (times[1:] for times in taken.values())  # without the first round
    what = f"checkpoint of {name}, {size / 1e6:.0f} MB"
    total = [a + b for a, b in zip(waiting, writing, strict=True)]
    return [
        {"what": f"{what}: the training waits"} | compare_to_peer(waiting, peer),
        {"what": f"{what}: on disk"} | compare_to_peer(total, peer),
    ]


def time_first_step() -> dict[str, Any]:
    """Return the median time from command to first completed training step."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(STARTS):
            command = [sys.executable, "tools/train.py", *DATA, "steps=2", "log_every=1", f"out={folder}/{number}"]
            start = time.perf_counter()
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            next(line for line in process.stdout if re.match(r"step 1/2", line))
            seconds.append(time.perf_counter() - start)
            process.communicate()
    return {"what": "command to the end of the first step, icnet_half on parts", "ours_ms": 1000 * statistics.median(seconds)}


def main(args: argparse.Namespace) -> None:
    """Measure two models and the start of a training."""
    rows = [row for name in MODELS for row in time_saving(name)] + [time_first_step()]
    print(*rows, sep="\n")
    print(write_result("overhead", args.command, rows))
