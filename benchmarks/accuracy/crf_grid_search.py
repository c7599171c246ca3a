"""Grid search over the CRF's w1, sigma_alpha and sigma_beta on validation images.

Coarse to fine, as in Chen et al., ICLR 2015, arXiv:1412.7062, sec. 5.1: w2 and sigma_gamma stay 3, with ten iterations; first a coarse
grid, then the values around its best point. The network runs once per image. The subset consists of evenly spaced images, which are the
only ones that the search shares with the final evaluation.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.harness.result_files import write_result
from segzoo.config.build import build_data
from segzoo.config.from_checkpoint import dataset_config, load_checkpoint
from segzoo.device import Precision
from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.inference.postprocess import CRF
from segzoo.inference.protocol import SINGLE_PASS
from segzoo.inference.segment import predict_probabilities
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.types import DatasetInfo

Point = tuple[float, float, float]  # w1, alpha, beta
COARSE: list[Point] = list(itertools.product((2.0, 4.0, 8.0), (30.0, 49.0, 80.0), (3.0, 5.0, 10.0)))
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # image, probabilities, label


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the trained network and the size of the subset."""
    parser.add_argument("run", help="run directory")
    parser.add_argument("--images", type=int, default=12, help="number of validation images (default: %(default)s)")


@torch.no_grad()
def load_cases(ckpt: str, count: int) -> tuple[list[Case], DatasetInfo]:
    """Return validation images with the network's probabilities, and the dataset info."""
    model, info, meta = load_checkpoint(ckpt=ckpt)
    data = build_data(dataset_config(meta, None), "val")
    precision = Precision("fp32", torch.device("cpu"))
    cases = []
    with eval_mode(model):
        for index in range(0, len(data), max(1, len(data) // count)):
            sample = data[index]
            image = torch.from_numpy(sample.image)[None]
            x = normalize(image, info, precision.device)
            cases.append((image, predict_probabilities(model, x, SINGLE_PASS, precision), torch.from_numpy(sample.label)[None]))
    return cases[:count], info


def score(cases: list[Case], info: DatasetInfo, post: CRF | None) -> float:
    """Return the mIoU of the cases, with a CRF or without."""
    matrix = ConfusionMatrix(info.num_classes, info.ignore)
    for image, probabilities, label in cases:
        matrix.update(probabilities.argmax(1) if post is None else post(image, probabilities), label)
    return matrix.scores(info.classes, len(cases), None).miou


def search(cases: list[Case], info: DatasetInfo, grid: Iterable[Point]) -> list[dict[str, float]]:
    """Return w1, alpha, beta and mIoU for each point of the grid."""
    rows = []
    for w1, alpha, beta in grid:
        post = CRF(w1, alpha, beta, 3.0, 3.0, 10, "row")
        rows.append({"w1": w1, "alpha": alpha, "beta": beta, "miou": score(cases, info, post)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def fine_grid(best: dict[str, float]) -> list[Point]:
    """Return the grid of neighbors around a point."""
    weights, alphas = [best["w1"] * f for f in (0.7, 1.0, 1.4)], [best["alpha"] * f for f in (0.8, 1.0, 1.25)]
    points = [(w1, alpha, best["beta"] + step) for w1 in weights for alpha in alphas for step in (-1, 0, 1)]
    return [point for point in points if point != (best["w1"], best["alpha"], best["beta"])]


def main(args: argparse.Namespace) -> None:
    """Run the coarse and the fine search and keep all points."""
    cases, info = load_cases(args.run, args.images)
    without = score(cases, info, None)
    print(json.dumps({"images": len(cases), "without": without}), flush=True)
    coarse = search(cases, info, COARSE)
    fine = search(cases, info, fine_grid(max(coarse, key=lambda row: row["miou"])))
    best = max([*coarse, *fine], key=lambda row: row["miou"])
    print(json.dumps({"best": best}))
    row = {"data": info.name, "images": len(cases), "without": without, "best": best, "coarse": coarse, "fine": fine}
    print(write_result(f"crf_search_{Path(args.run).name}", args.command, [row]))
