"""ICNet half from a narrowed full-width network compared with training from scratch.

A full-width ICNet is trained on two drives of CamVid, as in ``few_shot_transfer``. ICNet half then learns forty images of another drive, from
scratch and from the channels of that network with the largest filters (``init.narrow=l1``), with three seeds each. All runs have 200 steps of
eight 192x192 crops and are scored on the whole validation images, which are other frames of the drive of the forty images. The runs from
scratch have seen no other drive, so the difference is the value of a wide network at hand, and not that of L1 over another way to narrow it.
The interval is that of Student's distribution for the mean of the three differences.

About 40 minutes on one core. An interrupted study continues where it stopped if it is given the same output directory. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.harness.camvid_drives import camvid_folder
from benchmarks.harness.result_files import without_path, write_result
from benchmarks.harness.tool_runs import train_or_continue
from benchmarks.studies.few_shot_transfer import DRIVES, link_subsets
from benchmarks.studies.rare_classes import SEEDS, difference

STEPS = 200
COMMON = ("data=camvid", "augment.crop=[192,192]", "batch_size=8", "workers=1", "num_val_images=0")
SOURCE = ("model=icnet",)
VARIANTS = {  # overrides of tools/train.py
    "from scratch": ("model=icnet_half",),
    "narrowed by L1": ("model=icnet_half", "init.ckpt={source}", "init.narrow=l1"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory and the length of a run."""
    parser.add_argument("out", type=Path, help="directory for the runs and the lists of their images")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each run; the result is written for {STEPS} only")


def main(args: argparse.Namespace) -> None:
    """Train the source network, then both variants seed by seed."""
    folder = args.out.absolute()
    scores: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    common = (*COMMON, f"steps={args.steps}", f"eval_every={args.steps}", f"schedule.warmup={args.steps // 10}")
    data, wide = link_subsets(folder, camvid_folder(), DRIVES["same"]), folder / "runs" / "wide"
    source_miou = train_or_continue(wide, *common, *SOURCE, *data["source"])["miou"]
    for seed in range(SEEDS):
        for number, (variant, overrides) in enumerate(VARIANTS.items()):
            own, run = [word.format(source=wide) for word in overrides], folder / "runs" / f"{number}-{seed}"
            scores[variant].append(train_or_continue(run, *common, *data["few"], *own, f"seed={seed}")["miou"])
            print(f"{variant}, seed {seed}: mIoU {scores[variant][-1]:.4f}", flush=True)
    rows: list[dict[str, Any]] = [{"variant": "full width on the other drives", "miou": [source_miou], "mean": source_miou}]
    rows += [
        {"variant": variant, "miou": mious, "mean": statistics.fmean(mious), "spread": statistics.stdev(mious)}
        for variant, mious in scores.items()
    ]
    rows.append({"variant": "narrowed by L1 - from scratch", **difference(scores["narrowed by L1"], scores["from scratch"])})
    print(rows)
    if args.steps == STEPS:
        print(write_result("narrowing", without_path(args.command, args.out), rows))
