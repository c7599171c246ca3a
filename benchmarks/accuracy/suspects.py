"""Recall of planted label errors by the action suspects on CamVid.

In 5 % of the training images, one object is labeled incorrectly: its class is swapped, it is missing, or it is shifted by half its size. Two
networks are trained from scratch on one half of the images each, errors included, and judge the other half. Recall is the share of the
planted errors among the first tenth of the ranking. It is also given for networks that judge the half that they were trained on, and for
the softmin score of Lad and Mueller (arXiv:2307.05080, temperature 0.1) on the same probabilities.

Two trainings of 800 steps of eight 256x192 crops. About 45 minutes on one core. Needs SEGZOO_DATA.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness.camvid_drives import camvid_folder
from benchmarks.harness.result_files import write_result
from benchmarks.harness.tool_runs import run_summary, run_tool
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import load_checkpoint
from segzoo.data.inspection.blobs import find_blobs
from segzoo.device import Precision, pick_device
from segzoo.workflows.dataset._folds import mean_probabilities

KINDS = ("swapped", "missing", "shifted")
SHARE = 0.05  # of the images that get an error
TOP = 0.1  # of the ranking that recall refers to
OBJECT_PIXELS = (400, 20_000)  # size of an object that an error is planted at; an image has 172,800
NUM_CLASSES, VOID = 11, 11
FOLDS = 2
TRAINING = ("model=icnet_half", "recipe=camvid", "augment.crop=[192,256]", "num_val_images=0", "workers=0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the budget and the seed."""
    parser.add_argument("--steps", type=int, default=800, help="steps of each of the two trainings; 800 by default")
    parser.add_argument("--seed", type=int, default=0, help="which errors are planted, and where; 0 by default")
    parser.add_argument("--images", type=int, help="a quick try on so many images, evenly spread, without a result file")


def plant(label: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]] | None:
    """Label one object incorrectly.

    An object is a blob of any class. What it leaves is filled with the most frequent class around it.

    Args:
        label: raw values (H, W), with 11 for void.
        kind: one of ``KINDS``.
        rng: chooses the object, its new class and the direction of its shift.

    Returns:
        The changed label, and class, pixels and box of the object. None if there is no object of suitable size.
    """
    import cv2

    objects = [(value, mask, box) for value in range(NUM_CLASSES) for mask, box in _objects(label == value)]
    if not objects:
        return None
    value, mask, (left, top, width, height) = objects[rng.integers(len(objects))]
    changed = label.copy()
    if kind == "swapped":
        changed[mask] = (value + rng.integers(1, NUM_CLASSES)) % NUM_CLASSES
    else:
        ring = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~mask & (label != VOID)
        changed[mask] = np.bincount(label[ring], minlength=NUM_CLASSES).argmax()
    if kind == "shifted":
        down, right = (round(side / 2) * int(rng.choice((-1, 1))) for side in (height, width))
        rows, columns = np.nonzero(mask)
        inside = (rows + down >= 0) & (rows + down < label.shape[0]) & (columns + right >= 0) & (columns + right < label.shape[1])
        changed[rows[inside] + down, columns[inside] + right] = value
    return changed, {"kind": kind, "class": value, "pixels": int(mask.sum()), "box": [left, top, width, height]}


def _objects(mask: np.ndarray) -> Iterator[tuple[np.ndarray, tuple[int, int, int, int]]]:
    blobs = find_blobs(mask)
    for number, area in enumerate(blobs.areas.tolist(), 1):
        if OBJECT_PIXELS[0] <= area <= OBJECT_PIXELS[1]:
            yield blobs.numbers == number, tuple(blobs.boxes[number - 1].tolist())


def plant_errors(root: Path, camvid: Path, stems: list[str], seed: int) -> dict[str, dict[str, Any]]:
    """Copy CamVid with planted errors, and return them by stem."""
    rng = np.random.default_rng(seed)
    (root / "trainannot").mkdir(parents=True)
    for link, target in (("train", camvid / "train"), ("val", camvid / "train"), ("valannot", root / "trainannot")):
        (root / link).symlink_to(target)
    planted: dict[str, dict[str, Any]] = {}
    for stem in rng.permutation(stems).tolist():
        source, target = camvid / "trainannot" / f"{stem}.png", root / "trainannot" / f"{stem}.png"
        label = np.array(Image.open(source))
        wanted = len(planted) < round(SHARE * len(stems))
        error = plant(label, KINDS[len(planted) % len(KINDS)], rng) if wanted else None
        if error is None:
            target.symlink_to(source)
        else:
            Image.fromarray(error[0]).save(target)
            planted[stem] = error[1]
    return planted


def write_folds(root: Path, stems: list[str]) -> None:
    """Write lists of images to train on and to judge.

    They are ``fold0/train.txt`` and ``fold0/val.txt`` of the first fold.
    """
    for fold in range(FOLDS):
        folder = root / f"fold{fold}"
        folder.mkdir()
        (folder / "val.txt").write_text("\n".join(stems[fold::FOLDS]) + "\n")
        (folder / "train.txt").write_text("\n".join(stem for number, stem in enumerate(stems) if number % FOLDS != fold) + "\n")


def rank(root: Path, name: str, data: tuple[str, ...], runs: list[Path], lists: list[Path]) -> list[str]:
    """Run the action and return the stems from most to least suspicious."""
    chosen = {"action.ckpt": runs, "action.held_out": lists}
    words = [f"{key}=[{','.join(map(str, paths))}]" for key, paths in chosen.items()]
    run_tool("dataset", "action=suspects", *data, *words, "action.limit=20", f"out={root / name}", quiet=True)
    with open(root / name / "suspects.csv", encoding="utf-8", newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


def softmin_ranking(section: dict[str, Any], runs: list[Path], lists: list[Path]) -> list[str]:
    """Rank by the softmin over pixels of the probability of the label."""
    dataset, precision, scores = build_data(section, "train"), Precision("fp32", pick_device("cpu")), {}
    for run, path in zip(runs, lists, strict=True):
        model, info, _ = load_checkpoint(ckpt=str(run))
        stems = set(path.read_text().split())
        for index in range(len(dataset)):
            if dataset.name(index) in stems:
                sample = dataset[index]
                valid = sample.label != info.ignore
                probabilities = mean_probabilities([(model, info)], sample.image, precision)
                labels = np.where(valid, sample.label, 0).astype(np.int64)
                quality = np.take_along_axis(probabilities, labels[None], 0)[0][valid].astype(np.float64)
                weights = np.exp((1 - quality) / 0.1)
                scores[sample.name] = float((quality * weights).sum() / weights.sum())
    return sorted(scores, key=lambda stem: scores[stem])


def recall(ranking: list[str], planted: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Recall in the first tenth of a ranking, by kind.

    Also returns the rank of each planted error.
    """
    top = set(ranking[: round(TOP * len(ranking))])
    found = {kind: [stem in top for stem, error in planted.items() if error["kind"] == kind] for kind in KINDS}
    shares = {kind: sum(hits) / len(hits) if hits else None for kind, hits in found.items()}
    ranks = {stem: ranking.index(stem) + 1 for stem in planted}
    return {"recall": sum(stem in top for stem in planted) / len(planted), "by_kind": shares, "ranks": ranks}


def main(args: argparse.Namespace) -> None:
    """Plant the errors, train on each half, and measure recall."""
    camvid = camvid_folder()
    stems = (camvid / "train.txt").read_text().split()
    if args.images:
        stems = stems[:: max(1, len(stems) // args.images)]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        planted = plant_errors(root, camvid, stems, args.seed)
        write_folds(root, stems)
        (root / "train.txt").write_text("\n".join(stems) + "\n")
        runs, mious = [root / f"run{fold}" for fold in range(FOLDS)], []
        shared = ("data=camvid", f"data.root={root}")
        for fold, run in enumerate(runs):
            lists = f"data.lists='fold{fold}/{{split}}.txt'"
            budget = (
                f"steps={args.steps}",
                f"schedule.warmup={min(40, args.steps // 2)}",
                f"eval_every={args.steps}",
                f"seed={args.seed}",
                f"out={run}",
            )
            run_tool("train", *shared, lists, *TRAINING, *budget)
            mious.append(run_summary(run)["miou"])
        data = (*shared, "data.lists='train.txt'")
        unseen, seen = ([root / f"fold{fold}/{part}.txt" for fold in range(FOLDS)] for part in ("val", "train"))
        rankings = {
            "cross-validated": rank(root, "cross-validated", data, runs, unseen),
            "on its own training images": rank(root, "own", data, runs, seen),
            "cross-validated, softmin": softmin_ranking(
                load_checkpoint(ckpt=str(runs[0]))[2]["config"]["data"] | {"lists": "train.txt"}, runs, unseen
            ),
        }
    rows = [{"ranking": name, **recall(ranking, planted)} for name, ranking in rankings.items()]
    for row in rows:
        print(row, flush=True)
    content = {
        "images": len(stems),
        "steps": args.steps,
        "seed": args.seed,
        "miou_on_other_half": mious,
        "planted": planted,
        "rankings": rows,
    }
    if args.images is None:
        print(write_result("suspects_camvid", args.command, content))
