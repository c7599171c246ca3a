"""Fine-tuning on forty images compared with training from scratch.

A source model is trained on whole sequences of CamVid. Forty images spread evenly over another sequence are then learned from it and from
scratch with five seeds each, and with label smoothing and with mixup with two seeds each. ICNet half, 300 steps of eight 320x240 crops.

``same`` trains the source on 0006R0 and 0001TP and the forty images of 0016E5, and scores on the validation images, which are other frames
of the drive 0016E5: the scores do not tell how well the network does on another drive. ``other`` trains the source on 0016E5 and the forty
images of 0006R0, and scores on all images of 0001TP, a drive that neither has seen.

About 40 minutes on two cores, 75 on one. An interrupted study continues where it stopped if it is given the same output directory. Needs
SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.camvid_drives import camvid_folder, drive_images, link_drives
from benchmarks.harness.result_files import without_path, write_result
from benchmarks.harness.tool_runs import CAMVID_CROPS, train_or_continue

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
    """Add the drives and the output directory."""
    parser.add_argument("drives", choices=DRIVES, help="score on frames of the drive of the forty images, or of another")
    parser.add_argument("out", type=Path, help="directory for the runs and the lists of their images")


def link_subsets(folder: Path, camvid: Path, drives: Drives) -> dict[str, list[str]]:
    """Link subsets of CamVid and return the overrides that select them.

    Args:
        folder: receives a data set for each subset, unless they are there already.
        camvid: the complete data set.
        drives: the sequences.
    """
    sequence = drive_images(camvid, drives.few)
    subsets = {
        "source": drive_images(camvid, *drives.source),
        "few": [sequence[number * len(sequence) // SHOTS] for number in range(SHOTS)],
    }
    return {kind: link_drives(folder / kind, camvid, train, drives.scored) for kind, train in subsets.items()}


def main(args: argparse.Namespace) -> None:
    """Train the source model and every variant."""
    drives, folder = DRIVES[args.drives], args.out.absolute()
    data = link_subsets(folder, camvid_folder(), drives)
    source = train_or_continue(folder / "runs" / "source", *COMMON, *data["source"], "steps=1200", "eval_every=1200")
    count = len((folder / "source" / "train.txt").read_text().split())
    rows: list[dict[str, Any]] = [
        {"variant": f"source model only, {count} images, 1200 steps", "seeds": 1, "miou": [source["miou"]]}
    ]
    for variant, (overrides, seeds) in VARIANTS.items():
        own = [word.format(source=folder / "runs" / "source") for word in overrides]
        runs = {seed: folder / "runs" / f"{len(rows)}-{seed}" for seed in range(seeds)}
        scores = [train_or_continue(run, *COMMON, *data["few"], *own, f"seed={seed}")["miou"] for seed, run in runs.items()]
        rows.append({"variant": variant, "seeds": seeds, "miou": scores, "mean": statistics.fmean(scores)})
        rows[-1]["spread"] = statistics.stdev(scores) if seeds > 1 else None
        print(rows[-1], flush=True)
    print(write_result(drives.result, without_path(args.command, args.out), rows))
