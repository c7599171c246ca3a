"""Searches the CRF's w1, sigma_alpha and sigma_beta on validation pictures: ``python -m benchmarks.crf_search <run> [pictures]``.

Coarse to fine, as Chen et al., ICLR 2015, arXiv:1412.7062, sec. 5.1 do: w2 and sigma_gamma stay 3, ten steps; a coarse grid, then
the values around its best. The network runs once a picture. The first pictures of every n-th place make up the subset, so that
the search and the final evaluation share only those.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from segzoo.config import build_data
from segzoo.engine.device import Precision, normalise
from segzoo.engine.infer import Protocol, class_probabilities, evaluating
from segzoo.metrics import ConfusionMatrix
from segzoo.post import CRF
from segzoo.zoo import data_section, load_with_config

Point = tuple[float, float, float]  # w1, alpha, beta
COARSE: list[Point] = list(itertools.product((2.0, 4.0, 8.0), (30.0, 49.0, 80.0), (3.0, 5.0, 10.0)))
Picture = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # image, probabilities, label


@torch.no_grad()
def pictures(ckpt: str, count: int) -> tuple[list[Picture], Any]:
    """``count`` validation pictures with the network's probabilities, and the data card."""
    model, card, meta = load_with_config(ckpt=ckpt)
    data = build_data(data_section(meta, None), "val")
    place = Precision("fp32", torch.device("cpu"))
    found = []
    with evaluating(model):
        for index in range(0, len(data), max(1, len(data) // count)):
            sample = data[index]
            image = torch.from_numpy(sample.image)[None]
            x = normalise(image, card, place.device)
            found.append((image, class_probabilities(model, x, Protocol(), place), torch.from_numpy(sample.label)[None]))
    return found[:count], card


def score(cases: list[Picture], card: Any, post: CRF | None) -> float:
    """mIoU of the pictures with a CRF, or without."""
    matrix = ConfusionMatrix(card.num_classes, card.ignore)
    for image, probabilities, label in cases:
        matrix.update(probabilities.argmax(1) if post is None else post(image, probabilities), label)
    return matrix.scores(card.classes, len(cases), None).miou


def search(cases: list[Picture], card: Any, grid: Iterable[Point]) -> list[dict[str, float]]:
    """One row a point of the grid: w1, alpha, beta and mIoU."""
    rows = []
    for w1, alpha, beta in grid:
        post = CRF(w1, alpha, beta, 3.0, 3.0, 10, "row")
        rows.append({"w1": w1, "alpha": alpha, "beta": beta, "miou": score(cases, card, post)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def around(best: dict[str, float]) -> list[Point]:
    """The fine grid: one step to either side of each value, the best itself left out."""
    weights, reaches = [best["w1"] * f for f in (0.7, 1.0, 1.4)], [best["alpha"] * f for f in (0.8, 1.0, 1.25)]
    points = [(w1, alpha, best["beta"] + step) for w1 in weights for alpha in reaches for step in (-1, 0, 1)]
    return [point for point in points if point != (best["w1"], best["alpha"], best["beta"])]


def main(ckpt: str, count: int = 12) -> dict[str, Any]:
    """The coarse and the fine search; prints and returns them with the score without a CRF."""
    cases, card = pictures(ckpt, count)
    plain = score(cases, card, None)
    print(json.dumps({"pictures": len(cases), "without": plain}), flush=True)
    coarse = search(cases, card, COARSE)
    fine = search(cases, card, around(max(coarse, key=lambda row: row["miou"])))
    best = max([*coarse, *fine], key=lambda row: row["miou"])
    print(json.dumps({"best": best}))
    return {"data": card.name, "pictures": len(cases), "without": plain, "best": best, "coarse": coarse, "fine": fine}


if __name__ == "__main__":
    from benchmarks.harness.result_files import write_result

    found = main(sys.argv[1], *(int(word) for word in sys.argv[2:]))
    name = f"crf_search_{Path(sys.argv[1]).name}"
    print(write_result(name, " ".join(["python -m benchmarks.crf_search", Path(sys.argv[1]).name, *sys.argv[2:]]), [found]))
