"""Search for a better CamVid recipe of ICNet half.

The drive 0006R0 of the training split is held out and scores every run, because the validation split lies inside a training drive. One
setting changes at a time, in short runs without pretraining. A change is kept if it gains more than the standard
deviation of the unchanged recipe's seeds. The kept changes are then trained together, with the same seeds. ``--long`` starts from what
the short search kept, tries the changes that need more steps, and scores the result on enlarged images.

About two minutes per run on one core with AVX512_BF16, and 35 minutes in all; six to thirteen minutes per long run, and an hour in all. An
interrupted search continues where it stopped if it is given the same output directory. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.camvid_drives import TRAIN_DRIVES, camvid_folder, drive_images, link_drives
from benchmarks.harness.result_files import without_path, write_result
from benchmarks.harness.tool_runs import CAMVID_CROPS, run_unless_finished, train_or_continue

DEV = "0006R0"
COMMON = ("model=icnet_half", "data=camvid", *CAMVID_CROPS, "workers=1")
LARGE = ("augment.scale_range=[1.0,4.0]",)  # whose images are scored at twice their size
SIZES = ((480, 640), (540, 720), (720, 960))  # to which images are enlarged for scoring
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
LONG_CHANGES: dict[str, tuple[str, ...]] = {
    "loss at the label's size": CHANGES["loss at the label's size"],
    "moving average of the weights": ("ema_decay=0.998",),
    "images at 960x720": ("augment.crop=[353,481]", *LARGE),
    "color jitter 0.4": CHANGES["color jitter 0.4"],
}
EXCLUSIVE = (("OHEM", "label smoothing 0.1"), ("scales 0.35 to 2.5", "images at 960x720"))


class Search(NamedTuple):
    """Start, candidates and length of a search."""

    result: str
    recipe: str
    overrides: tuple[str, ...]  # of tools/train.py, in every run
    changes: dict[str, tuple[str, ...]]
    steps: int
    seeds: int  # of the unchanged recipe and of the result
    sizes: tuple[tuple[int, int], ...]  # to which images are enlarged to score the result


SHORT = Search("recipe_search", "usual recipe", (), CHANGES, 450, 3, ())
LONG = Search("recipe_search_long", "twice the learning rate", CHANGES["twice the learning rate"], LONG_CHANGES, 1500, 2, SIZES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output directory."""
    parser.add_argument("out", type=Path, help="directory for the runs, their scores and the lists of their images")
    parser.add_argument("--long", action="store_true", help="start from what the short search kept, with more steps")


def score(run: Path, steps: int, overrides: tuple[str, ...], seed: int, data: list[str]) -> float:
    """Train a recipe and return its mIoU on the held-out drive."""
    length = (f"steps={steps}", f"eval_every={steps}", f"schedule.warmup={steps // 10}")
    result = train_or_continue(run, *COMMON, *data, *length, *overrides, f"seed={seed}")
    return score_enlarged(run, (720, 960)) if set(LARGE) & set(overrides) else result["miou"]


def score_enlarged(run: Path, hw: tuple[int, int]) -> float:
    """Return the mIoU of a run on enlarged images."""
    out = run.parent / f"{run.name}-{hw[1]}x{hw[0]}"
    return run_unless_finished(out / "summary.json", "eval", f"ckpt={run}", f"protocol.input_hw=[{hw[0]},{hw[1]}]")["miou"]


def kept_changes(gains: dict[str, float], spread: float) -> list[str]:
    """Choose the changes that gain more than the spread of seeds.

    Of changes that exclude each other, the better one is kept.
    """
    rivals = {name: {other for pair in EXCLUSIVE if name in pair for other in pair} & gains.keys() for name in gains}
    better = [name for name, gain in gains.items() if all(gain >= gains[other] for other in rivals[name])]
    return [name for name in better if gains[name] > spread]


def main(args: argparse.Namespace) -> None:
    """Train the recipe, its changes, and those that help together."""
    search = LONG if args.long else SHORT
    camvid, folder = camvid_folder(), args.out.absolute()
    train = drive_images(camvid, *(drive for drive in TRAIN_DRIVES if drive != DEV))
    data = link_drives(folder / "dev", camvid, train, DEV)

    def add_row(name: str, overrides: tuple[str, ...], scores: list[float]) -> dict[str, Any]:
        rows.append({"recipe": name, "overrides": overrides, "miou": scores, "mean": statistics.fmean(scores)})
        print(rows[-1], flush=True)
        return rows[-1]

    def runs_of(number: int, seeds: int) -> list[Path]:
        return [folder / search.result / f"{number}-{seed}" for seed in range(seeds)]

    def row(name: str, overrides: tuple[str, ...], seeds: int) -> dict[str, Any]:
        runs = enumerate(runs_of(len(rows), seeds))
        return add_row(name, overrides, [score(run, search.steps, overrides, seed, data) for seed, run in runs])

    def with_changes(names: Sequence[str]) -> tuple[str, ...]:
        return (*search.overrides, *(word for name in names for word in search.changes[name]))

    rows: list[dict[str, Any]] = []
    unchanged = row(search.recipe, search.overrides, search.seeds)["miou"]
    gains = {name: row(name, with_changes([name]), 1)["miou"][0] - unchanged[0] for name in search.changes}
    if kept := kept_changes(gains, statistics.stdev(unchanged)):
        row(" + ".join(kept), with_changes(kept), search.seeds)
    result = runs_of(len(rows) - 1 if kept else 0, search.seeds)
    for hw in search.sizes:
        override = f"protocol.input_hw=[{hw[0]},{hw[1]}]"
        add_row(f"scored at {hw[1]}x{hw[0]}", (override,), [score_enlarged(run, hw) for run in result])
    print(write_result(search.result, without_path(args.command, args.out), rows))
