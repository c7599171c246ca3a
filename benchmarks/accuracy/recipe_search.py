"""Search for a better CamVid recipe of ICNet half.

The drive 0006R0 of the training split is held out and scores every run, because the validation split lies inside a training drive. One
setting changes at a time, in short runs without pretraining. A change is kept if it gains more than the standard
deviation of the unchanged recipe's seeds. The kept changes are then trained together, with the same seeds.

About two minutes per run on one core with AVX512_BF16, and 35 minutes in all. An interrupted search continues where it stopped if it is given the same
output directory. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.harness.camvid_drives import TRAIN_DRIVES, camvid_folder, drive_images, link_drives
from benchmarks.harness.result_files import write_result
from benchmarks.harness.tool_runs import CAMVID_CROPS, run_unless_finished, train_or_continue

DEV, SEEDS, STEPS = "0006R0", 3, 450
COMMON = ("model=icnet_half", "data=camvid", *CAMVID_CROPS, "workers=1")
LARGE = ("augment.scale_range=[1.0,4.0]",)  # whose images are scored at twice their size
CHANGES: dict[str, tuple[str, ...]] = {  # overrides of tools/train.py
    "moving average of the weights": ("ema_decay=0.99",),
    "OHEM": ("loss=ohem",),
    "no class weights": ("loss.class_weights=null",),
    "rare classes drawn": ("sampler=rare_class",),
    "label smoothing 0.1": ("loss.label_smoothing=0.1",),
    "scales 0.35 to 2.5": ("augment.scale_range=[0.35,2.5]",),
    "color jitter 0.4": ("augment.color_jitter=0.4",),
    "twice the learning rate": ("optim.lr=0.002",),
    "images at 960x720": LARGE,
    "loss at the label's size": ("loss.resolution=label",),  # poles are two pixels wide, less than a logit
}
EXCLUSIVE = (("OHEM", "label smoothing 0.1"), ("scales 0.35 to 2.5", "images at 960x720"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory."""
    parser.add_argument("out", type=Path, help="directory for the runs, their scores and the lists of their images")


def score(run: Path, overrides: tuple[str, ...], seed: int, data: list[str]) -> float:
    """Train a recipe and return its mIoU on the held-out drive."""
    length = (f"steps={STEPS}", f"eval_every={STEPS}", f"schedule.warmup={STEPS // 10}")
    result = train_or_continue(run, *COMMON, *data, *length, *overrides, f"seed={seed}")
    if not set(LARGE) & set(overrides):
        return result["miou"]
    out = run.parent / f"{run.name}-960x720"
    return run_unless_finished(out / "summary.json", "eval", f"ckpt={run}", "protocol.input_hw=[720,960]")["miou"]


def kept_changes(gains: dict[str, float], spread: float) -> list[str]:
    """Choose the changes that gain more than the spread of seeds.

    Of changes that exclude each other, the better one is kept.
    """
    better = [
        name for name, gain in gains.items() if all(gain >= gains[other] for pair in EXCLUSIVE if name in pair for other in pair)
    ]
    return [name for name in better if gains[name] > spread]


def main(args: argparse.Namespace) -> None:
    """Train the recipe, its changes, and those that help together."""
    camvid, folder = camvid_folder(), args.out.absolute()
    train = drive_images(camvid, *(drive for drive in TRAIN_DRIVES if drive != DEV))
    data = link_drives(folder / "dev", camvid, train, DEV)

    def row(name: str, overrides: tuple[str, ...], seeds: int) -> dict[str, Any]:
        runs = [folder / "runs" / f"{len(rows)}-{seed}" for seed in range(seeds)]
        scores = [score(run, overrides, seed, data) for seed, run in enumerate(runs)]
        rows.append({"recipe": name, "overrides": overrides, "miou": scores, "mean": statistics.fmean(scores)})
        print(rows[-1], flush=True)
        return rows[-1]

    rows: list[dict[str, Any]] = []
    usual = row("usual recipe", (), SEEDS)["miou"]
    gains = {name: row(name, overrides, 1)["miou"][0] - usual[0] for name, overrides in CHANGES.items()}
    kept = kept_changes(gains, statistics.stdev(usual))
    row(" + ".join(kept) or "no change", tuple(word for name in kept for word in CHANGES[name]), SEEDS)
    print(write_result("recipe_search", args.command.replace(str(args.out), "<out>"), rows))
