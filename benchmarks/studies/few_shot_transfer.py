"""Fine-tuning on forty images compared with training from scratch.

CamVid's training sequences 0006R0 and 0001TP (163 images) train the source model; forty images spread evenly over sequence 0016E5 are then
learned from it and from scratch with five seeds each, and with label smoothing and with mixup with two seeds each. ICNet half, 300 steps
of eight 320x240 crops, scored on all validation images. Those are other frames of the same drive 0016E5, so the scores do not tell how well
the network does on another drive.

About 40 minutes on two cores. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import write_result
from benchmarks.harness.tool_runs import CAMVID_CROPS, run_summary, run_tool

SHOTS = 40
COMMON = ("model=icnet_half", "data=camvid", "steps=300", "eval_every=300", *CAMVID_CROPS, "schedule.warmup=30")
VARIANTS: dict[str, tuple[list[str], int]] = {  # overrides of tools/train.py, number of seeds
    "from scratch": ([], 5),
    "fine-tuned": (["init.ckpt={source}"], 5),
    "fine-tuned, label smoothing 0.1": (["init.ckpt={source}", "loss.label_smoothing=0.1"], 2),
    "fine-tuned, mixup": (["init.ckpt={source}", "mix=mixup"], 2),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the variants are fixed."""


def link_subsets(folder: Path, camvid: Path) -> dict[str, list[str]]:
    """Link subsets of CamVid and return the overrides that select them."""
    names = sorted(path.stem for path in (camvid / "train").iterdir())
    sequence = [name for name in names if name.startswith("0016E5")]
    subsets = {
        "source": [name for name in names if name.startswith(("0006R0", "0001TP"))],
        "few": [sequence[number * len(sequence) // SHOTS] for number in range(SHOTS)],
    }
    val = sorted(path.stem for path in (camvid / "val").iterdir())
    overrides = {}
    for kind, train in subsets.items():
        root = folder / kind
        root.mkdir()
        for part in ("train", "trainannot", "val", "valannot"):
            (root / part).symlink_to(camvid / part)
        (root / "train.txt").write_text("\n".join(train) + "\n")
        (root / "val.txt").write_text("\n".join(val) + "\n")
        overrides[kind] = [f"data.root={root}", f"data.title=camvid_{kind}", "data.lists='{split}.txt'"]
    return overrides


def train(out: Path, *overrides: str) -> float:
    """Train once and return the validation mIoU."""
    run_tool("train", *COMMON, *overrides, f"out={out}", quiet=True)
    return run_summary(out)["miou"]


def main(args: argparse.Namespace) -> None:
    """Train the source model and every variant."""
    camvid = Path(os.environ["SEGZOO_DATA"]) / "camvid"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = link_subsets(folder, camvid)
        miou = train(folder / "begin", *data["source"], "steps=1200", "eval_every=1200")
        rows.append({"variant": "source model only, 163 images, 1200 steps", "seeds": 1, "miou": [miou]})
        for variant, (overrides, seeds) in VARIANTS.items():
            own = [word.format(source=folder / "begin") for word in overrides]
            scores = [train(folder / f"{len(rows)}-{seed}", *data["few"], *own, f"seed={seed}") for seed in range(seeds)]
            rows.append({"variant": variant, "seeds": seeds, "miou": scores, "mean": statistics.fmean(scores)})
            rows[-1]["spread"] = statistics.stdev(scores) if seeds > 1 else None
            print(rows[-1], flush=True)
    print(write_result("transfer", args.command, rows))
