"""Fine-tuning on forty images compared with training from scratch.

A source model is trained on whole sequences of CamVid. Forty images spread evenly over another sequence are then learned from it and from
scratch with five seeds each, and with label smoothing and with mixup with two seeds each. ICNet half, 300 steps of eight 320x240 crops.

``same`` trains the source on 0006R0 and 0001TP and the forty images of 0016E5, and scores on the validation images, which are other frames
of the drive 0016E5: the scores do not tell how well the network does on another drive. ``other`` trains the source on 0016E5 and the forty
images of 0006R0, and scores on all images of 0001TP, a drive that neither has seen.

About 40 minutes on two cores. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Drives:
    """Sequences of CamVid for each role in the study.

    Attributes:
        source, few: prefixes of names in the training split.
        scored: the same; None scores on the validation split.
        result: name of the result file.
    """

    source: tuple[str, ...]
    few: str
    scored: str | None
    result: str


DRIVES = {
    "same": Drives(("0006R0", "0001TP"), "0016E5", None, "transfer"),
    "other": Drives(("0016E5",), "0006R0", "0001TP", "transfer_other_drive"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the drives."""
    parser.add_argument("drives", choices=DRIVES, help="score on frames of the drive of the forty images, or of another")


def link_subsets(folder: Path, camvid: Path, drives: Drives) -> dict[str, list[str]]:
    """Link subsets of CamVid and return the overrides that select them."""
    names = sorted(path.stem for path in (camvid / "train").iterdir())
    sequence = [name for name in names if name.startswith(drives.few)]
    subsets = {
        "source": [name for name in names if name.startswith(drives.source)],
        "few": [sequence[number * len(sequence) // SHOTS] for number in range(SHOTS)],
    }
    scored_split = "val" if drives.scored is None else "train"
    scored = [
        name for name in sorted(path.stem for path in (camvid / scored_split).iterdir()) if name.startswith(drives.scored or "")
    ]
    overrides = {}
    for kind, train in subsets.items():
        root = folder / kind
        root.mkdir()
        for link, target in (("train", "train"), ("val", scored_split)):
            (root / link).symlink_to(camvid / target)
            (root / f"{link}annot").symlink_to(camvid / f"{target}annot")
        (root / "train.txt").write_text("\n".join(train) + "\n")
        (root / "val.txt").write_text("\n".join(scored) + "\n")
        overrides[kind] = [f"data.root={root}", f"data.title=camvid_{kind}", "data.lists='{split}.txt'"]
    return overrides


def train(out: Path, *overrides: str) -> float:
    """Train once and return the validation mIoU."""
    run_tool("train", *COMMON, *overrides, f"out={out}", quiet=True)
    return run_summary(out)["miou"]


def main(args: argparse.Namespace) -> None:
    """Train the source model and every variant."""
    camvid = Path(os.environ["SEGZOO_DATA"]) / "camvid"
    drives = DRIVES[args.drives]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = link_subsets(folder, camvid, drives)
        miou = train(folder / "begin", *data["source"], "steps=1200", "eval_every=1200")
        count = len((folder / "source" / "train.txt").read_text().split())
        rows.append({"variant": f"source model only, {count} images, 1200 steps", "seeds": 1, "miou": [miou]})
        for variant, (overrides, seeds) in VARIANTS.items():
            own = [word.format(source=folder / "begin") for word in overrides]
            scores = [train(folder / f"{len(rows)}-{seed}", *data["few"], *own, f"seed={seed}") for seed in range(seeds)]
            rows.append({"variant": variant, "seeds": seeds, "miou": scores, "mean": statistics.fmean(scores)})
            rows[-1]["spread"] = statistics.stdev(scores) if seeds > 1 else None
            print(rows[-1], flush=True)
    print(write_result(drives.result, args.command, rows))
