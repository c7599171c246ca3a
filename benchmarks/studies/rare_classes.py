"""Sampling of rare classes compared with plain shuffling, on small defects.

ICNet half learns the pitting of BSData from scratch, whose pixels are far below one percent of each image, with three seeds for each
sampler. The runs of a seed share their initial weights and differ in the images and crops they see. Both samplers see the same number of
crops, 400 steps of eight with 192x192 pixels, and are scored by the IoU of pitting on the whole validation images after the last step. The
interval is that of Student's distribution for the mean of the three differences.

About 40 minutes on one core: OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks studies/rare_classes. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import read_json, write_result
from benchmarks.harness.tool_runs import run_tool

SEEDS, STEPS, MINUTES = 3, 400, 60
T_95 = 4.303  # quantile of Student's distribution with SEEDS - 1 degrees of freedom
COMMON = (
    "model=icnet_half",
    "data=bsdata",
    "data.cache=ram",
    "augment.crop=[192,192]",
    "batch_size=8",
    "workers=1",
    "num_val_images=0",
)
VARIANTS = {"shuffle": "sampler=shuffle", "rare_class": "sampler=rare_class"}  # overrides of tools/train.py


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the length of a run."""
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each run; the result is written for {STEPS} only")


def train(out: Path, variant: str, seed: int, steps: int) -> dict[str, float]:
    """Train once and return the validation IoU of each class."""
    length = (f"steps={steps}", f"eval_every={steps}", f"schedule.warmup={steps // 10}")
    run_tool("train", *COMMON, VARIANTS[variant], f"seed={seed}", *length, f"out={out}", quiet=True)
    return {name: scores["iou"] for name, scores in read_json(out / "eval" / "summary.json")["per_class"].items()}


def difference(first: list[float], second: list[float]) -> dict[str, float]:
    """Return the mean of paired differences with its 95 % interval."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, margin = statistics.fmean(differences), T_95 * statistics.stdev(differences) / len(differences) ** 0.5
    return {"mean": mean, "low": mean - margin, "high": mean + margin}


def main(args: argparse.Namespace) -> None:
    """Train all variants, seed by seed, within the time budget."""
    scores: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    started, total = time.monotonic(), SEEDS * len(VARIANTS)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(SEEDS):
            for variant in VARIANTS:
                ious = train(Path(folder) / f"{variant}-{seed}", variant, seed, args.steps)
                scores[variant].append(ious["pitting"])
                done, minutes = sum(map(len, scores.values())), (time.monotonic() - started) / 60
                print(f"{done} of {total}: {variant}, seed {seed}: {ious}, {minutes:.1f} minutes so far", flush=True)
                if minutes / done * total > MINUTES:
                    raise SystemExit(
                        f"{total} runs would take {minutes / done * total:.0f} minutes, above {MINUTES}. Use an idle core."
                    )
    rows: list[dict[str, Any]] = [
        {"variant": variant, "steps": args.steps, "iou": ious, "mean": statistics.fmean(ious), "spread": statistics.stdev(ious)}
        for variant, ious in scores.items()
    ]
    rows.append({"variant": "rare_class - shuffle", **difference(scores["rare_class"], scores["shuffle"])})
    print(rows)
    if args.steps == STEPS:
        print(write_result("rare_classes", args.command, rows))
