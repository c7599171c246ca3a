"""Pairs of classes that are confused, and their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segzoo.evaluation.bootstrap import mean_iou
from segzoo.evaluation.metrics import COUNTS

MAX_FAILURES = 6  # pairs on a page
PER_GROUP = 3  # images among the worst, the median and the best


class Failure(NamedTuple):
    """A pair of classes that is confused.

    Attributes:
        label, prediction: train ids.
        pixels: how many pixels of ``label`` are predicted as ``prediction``.
        share: the same as a fraction of the pixels of ``label``.
        cost: how much higher the mIoU would be if these pixels were right, as a fraction.
        images: index and pixels of each image that has any, the most first.
    """

    label: int
    prediction: int
    pixels: int
    share: float
    cost: float
    images: Sequence[tuple[int, int]]


def confusion_matrix(counts: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Sum up the confusion matrix (K, K), row = label.

    Args:
        counts: (N, 3, K), as in ``Evaluation.per_image_counts``.
        errors: (M, 4), as in ``Evaluation.errors``.
    """
    matrix = np.diag(counts[:, COUNTS.index("hit")].sum(0).astype(np.int64))
    np.add.at(matrix, (errors[:, 1], errors[:, 2]), errors[:, 3])
    return matrix


def find_failures(counts: np.ndarray, errors: np.ndarray, number: int = MAX_FAILURES) -> list[Failure]:
    """Find the confusions that cost most mIoU.

    Args:
        counts, errors: as in ``confusion_matrix``.
        number: how many to find.
    """
    matrix = confusion_matrix(counts, errors)
    hits, labeled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    union = np.maximum(labeled + predicted - hits, 1)
    wrong = matrix - np.diag(hits)
    # corrected pixels become hits of their label, and leave the union of the class that was predicted
    rest = np.maximum(union - wrong, 1)
    cost = (wrong / union[:, None] + (hits / rest - hits / union) * (labeled > 0)) / max((labeled > 0).sum(), 1)
    order = np.argsort(-np.where(wrong > 0, cost, -1), axis=None, kind="stable")[:number]
    failures = []
    for label, prediction in zip(*np.unravel_index(order, matrix.shape), strict=True):
        if not wrong[label, prediction]:
            break
        rows = errors[(errors[:, 1] == label) & (errors[:, 2] == prediction)]
        rows = rows[np.argsort(-rows[:, 3], kind="stable")]
        images = [(int(index), int(pixels)) for index, _, _, pixels in rows]
        pixels = int(wrong[label, prediction])
        share = pixels / int(labeled[label])
        failures.append(Failure(int(label), int(prediction), pixels, share, float(cost[label, prediction]), images))
    return failures


def choose_examples(counts: np.ndarray, number: int = PER_GROUP) -> dict[str, list[int]]:
    """Choose the worst, the median and the best images by their mIoU.

    Images without a labeled pixel have no score and are left out. If there are few images, they form one group.

    Args:
        counts: (N, 3, K).
        number: of images in a group.

    Returns:
        Name of each group and its images, the worst first.
    """
    labeled = np.flatnonzero(counts[:, COUNTS.index("labeled")].any(1))
    order = labeled[np.argsort(mean_iou(counts[labeled]), kind="stable")].tolist()
    if len(order) <= 3 * number:
        return {"All images": order} if order else {}
    middle = (len(order) - number) // 2
    return {"Worst images": order[:number], "Median images": order[middle : middle + number], "Best images": order[-number:]}
