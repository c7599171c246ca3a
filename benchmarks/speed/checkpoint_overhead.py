"""What safety costs: ``python -m benchmarks.overhead`` times a checkpoint beside plain ``torch.save`` and the way to the first step.

A checkpoint here is weights and optimiser in two files, with checksums, flushed to the disk and read back before it counts; the plain
one is ``torch.save`` of the same tensors, neither flushed nor checked. Both in turns, in a temporary folder.
"""

from __future__ import annotations

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

from benchmarks.harness.interleaved_timing import compared, in_turns
from benchmarks.harness.result_files import write_result
from segzoo.data.card import make_card
from segzoo.engine.checkpoint import save
from segzoo.zoo import create_model

ROOT = Path(__file__).parents[2]
TURNS = 8
MODELS = {
    "icnet_half": ("icnet", {"name": "resnet50", "stem": "deep", "stride_at": "1x1", "width": 0.5}),
    "pspnet": ("pspnet", {"name": "resnet50", "stem": "deep"}),
}


def saving(name: str) -> dict[str, Any]:
    """Median seconds of both ways to save a model with Adam's moments, and their ratio."""
    model_name, trunk = MODELS[name]
    model = create_model(model_name, backbone=trunk, num_classes=19)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    card, state = make_card("bench", tuple(f"c{i}" for i in range(19)), None, (0, 0, 0), (1, 1, 1)), optimizer.state_dict()
    turns = count()
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "ours": lambda: save(
                Path(folder) / "run", next(turns), model, {"optimizer": state}, {"model": {"name": model_name}}, card, {}
            ),
            "peer": lambda: torch.save(
                {"model": model.state_dict(), "optimizer": state}, Path(folder) / f"plain-{next(turns)}.pth"
            ),
        }
        taken = in_turns(calls, seconds=60, least=TURNS, most=TURNS)
        size = sum(path.stat().st_size for path in next((Path(folder) / "run/checkpoints").glob("*/")).iterdir())
    return {"what": f"checkpoint of {name}, {size / 1e6:.0f} MB"} | compared(taken)


def starting() -> dict[str, Any]:
    """Seconds from the command to the first step of ``tools/train.py`` on the parts data set."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(3):
            words = [
                "data=parts",
                "data.train_images=16",
                "data.val_images=2",
                "steps=2",
                "log_every=1",
                "val_pictures=0",
                f"out={folder}/{turn}",
            ]
            start = time.perf_counter()
            running = subprocess.Popen([sys.executable, "tools/train.py", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            assert running.stdout is not None
            next(line for line in running.stdout if re.match(r"step 1/2", line))
            seconds.append(time.perf_counter() - start)
            running.communicate()
    return {"what": "command to the end of the first step, icnet_half on parts", "ours_ms": 1000 * statistics.median(seconds)}


if __name__ == "__main__":
    rows = [saving(name) for name in MODELS] + [starting()]
    for row in rows:
        print(row)
    print(write_result("overhead", "python -m benchmarks.overhead", rows))
