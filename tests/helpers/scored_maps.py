"""Random label maps of blocks, and predictions of them."""

from __future__ import annotations

import numpy as np
import torch

from segzoo.evaluation.scores._base import ScoredImage

NAMES = ("a", "b", "c", "absent")


def blocks(seed: int, shape: tuple[int, int] = (40, 50), classes: int = 3, ignored: bool = False):
    """A prediction and its ground truth, which consist of overlapping rectangles."""
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for _ in range(12):
        top, left = rng.integers(0, shape[0] - 4), rng.integers(0, shape[1] - 4)
        label[top : top + rng.integers(2, 12), left : left + rng.integers(2, 12)] = rng.integers(0, classes)
    pred = np.roll(label, rng.integers(-2, 3, 2), (0, 1))
    noise = rng.random(shape) < 0.02
    pred[noise] = rng.integers(0, classes, int(noise.sum()))
    if ignored:
        top, left = rng.integers(0, shape[0] - 6), rng.integers(0, shape[1] - 6)
        label[top : top + 5, left : left + 6] = 255
    return pred, label


def scored(index: int, pred: np.ndarray, label: np.ndarray, ignore: int = 255) -> ScoredImage:
    """An image for ``update``."""
    return ScoredImage(index, f"image{index}", np.where(label == ignore, ignore, pred), label)


def add_image(score, index: int, pred: np.ndarray, label: np.ndarray, probabilities: np.ndarray | None = None) -> None:
    """Update a score with an image.

    Its (K, H, W) probabilities come in strips of 7 rows.
    """
    if probabilities is not None:
        for first in range(0, len(label), 7):
            score.add_rows(torch.from_numpy(probabilities[:, first : first + 7]), label[first : first + 7])
    score.update(scored(index, pred, label))


def fed(score, pairs, ignore: int = 255):
    """The score after an update with each pair of prediction and ground truth."""
    for index, (pred, label) in enumerate(pairs):
        score.update(scored(index, pred, label, ignore))
    return score
