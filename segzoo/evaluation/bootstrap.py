"""Bootstrap confidence intervals of the IoU, over images or groups of them.

Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13: N images are drawn with replacement many times, and the middle 95 %
of the resulting scores form the interval. Two networks are compared on the same draws, since a hard image is hard for both. Images that
are not independent, such as the frames of one drive, are drawn as groups.

These intervals are too narrow for few images, by about the factor that distinguishes a t from a normal distribution. Their tails are
therefore chosen as in Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segzoo.data.splitting.grouping import group_names

DRAWS, SEED = 2000, 0
MIN_IMAGES = 10  # draws of fewer images, or groups, are too alike for an interval that can be trusted
LEVEL = 0.95
CHUNK = 500  # draws at a time, which limits the memory: 8 bytes per draw and image


@dataclass(frozen=True)
class ResampledScores:
    """Scores, or differences of scores, with their bootstrap draws.

    The first column is the mIoU, and the others are the IoUs of the classes, as fractions. An absent class has NaN.

    Attributes:
        values: (1 + K,), on all images.
        draws: (D, 1 + K), on the images of each draw.
        units: (1 + K,), how many images, or groups of them, each value depends on.
    """

    values: np.ndarray
    draws: np.ndarray
    units: np.ndarray

    def interval(self, column: int = 0) -> tuple[float, float] | None:
        """Bounds of the 95 % interval, None below ``MIN_IMAGES`` units."""
        if self.units[column] < MIN_IMAGES:
            return None
        tail = tail_probability(int(self.units[column]))
        low, high = np.quantile(self._drawn(column), (tail, 1 - tail))
        return float(low), float(high)

    def p_value(self, column: int = 0) -> float | None:
        """Two-sided p-value of the hypothesis that a difference is zero.

        It is below 0.05 if the 95 % interval excludes zero, and likewise at any other level. None below ``MIN_IMAGES`` units.
        """
        from scipy.special import ndtri, stdtr

        units = int(self.units[column])
        if units < MIN_IMAGES:
            return None
        drawn = self._drawn(column)
        share = (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + len(drawn))
        return 1.0 if share >= 0.5 else float(2 * stdtr(units - 1, ndtri(share) / math.sqrt(units / (units - 1))))

    def _drawn(self, column: int) -> np.ndarray:
        """Draws of a column in which its class is present."""
        drawn = self.draws[:, column]
        return drawn[~np.isnan(drawn)]


def tail_probability(units: int, level: float = LEVEL) -> float:
    """Share of the draws beyond each bound of an interval.

    Args:
        units: number of images or groups, at least 2.
        level: confidence level of the interval.
    """
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-math.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 + level) / 2)))


def resample(counts: np.ndarray, draws: int = DRAWS, seed: int = SEED) -> ResampledScores:
    """Score bootstrap draws of the images.

    The draws depend only on the number of images and the seed: networks scored on the same images are resampled alike.

    Args:
        counts: (N, 3, K), as in ``Evaluation.per_image_counts``, or their sums over groups of images.
        draws: number of draws D.
        seed: seed of the draws.
    """
    number = len(counts)
    flat, rng = counts.reshape(number, -1).astype(np.float64), np.random.default_rng(seed)  # exact below 2**53 pixels
    chunks = []
    for start in range(0, draws, CHUNK):
        times = rng.multinomial(number, [1 / number] * number, size=min(CHUNK, draws - start))
        chunks.append(_scores((times.astype(np.float64) @ flat).reshape(-1, *counts.shape[1:])))
    units = np.concatenate([[number], (counts[:, 1] > 0).sum(0)])
    return ResampledScores(_scores(counts.sum(0)), np.concatenate(chunks), units)


def sum_groups(counts: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Sum the counts (N, 3, K) of the images of each group.

    Args:
        counts: the counts of the images.
        groups: the group of each image.

    Returns:
        (G, 3, K), in the order of the groups' names.
    """
    names, index = np.unique(np.array(groups), return_inverse=True)
    sums = np.zeros((len(names), *counts.shape[1:]), counts.dtype)
    np.add.at(sums, index, counts)
    return sums


def counts_by_group(counts: np.ndarray, names: Sequence[str], group_by: str | None) -> np.ndarray:
    """Sum counts over groups of dependent images.

    Args:
        counts: (N, 3, K) of the images.
        names: names of the images.
        group_by: pattern that names the groups, as in ``group_names``. None leaves the counts as they are.

    Raises:
        DataError: the pattern finds no group in some names.
    """
    return counts if group_by is None else sum_groups(counts, group_names(names, group_by, "group_by"))


def bootstrap_miou(counts: np.ndarray) -> tuple[float, float] | None:
    """Compute the 95 % confidence interval of the mIoU, as fractions.

    Args:
        counts: (N, 3, K), as in ``Evaluation.per_image_counts``.

    Returns:
        Its bounds; None below ``MIN_IMAGES`` images.
    """
    return resample(counts, DRAWS).interval() if len(counts) >= MIN_IMAGES else None


def paired_bootstrap_miou(counts: np.ndarray, other_counts: np.ndarray) -> dict[str, float]:
    """Compare the mIoU of two networks on the same images.

    Args:
        counts, other_counts: (N, 3, K) of both networks, for the same images in the same order.

    Returns:
        The ``difference``, first minus second, and the bounds ``low`` and ``high`` of its 95 % confidence interval, as fractions.

    Raises:
        ValueError: if the counts are not of the same images and classes, or of fewer than ``MIN_IMAGES`` images.
    """
    if counts.shape != other_counts.shape or (counts[:, 1] != other_counts[:, 1]).any():
        raise ValueError(
            f"counts {counts.shape} and {other_counts.shape} are not of the same labels: score both networks on the same images"
        )
    first, second = resample(counts, DRAWS), resample(other_counts, DRAWS)
    difference = ResampledScores(first.values - second.values, first.draws - second.draws, first.units)
    interval = difference.interval()
    if interval is None:
        raise ValueError(f"an interval needs {MIN_IMAGES} images or more, got {len(counts)}")
    return {"difference": float(difference.values[0]), "low": interval[0], "high": interval[1]}


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Compute the IoU of each class from counts (..., 3, K).

    Returns:
        (..., K), with NaN for classes without a labeled pixel.
    """
    hits, labeled, predicted = np.moveaxis(counts, -2, 0)
    return np.where(labeled > 0, hits / np.maximum(labeled + predicted - hits, 1), np.nan)


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Compute the mIoU of counts (..., 3, K) over the labeled classes."""
    return _mean(class_iou(counts))


def _scores(counts: np.ndarray) -> np.ndarray:
    """Compute mIoU and class IoUs from counts.

    Shapes:
        (..., 3, K) -> (..., 1 + K)
    """
    iou = class_iou(counts)
    return np.concatenate([_mean(iou)[..., None], iou], axis=-1)


def _mean(iou: np.ndarray) -> np.ndarray:
    """Mean over the classes that are present, 0 if none is."""
    present = ~np.isnan(iou)
    return np.where(present, iou, 0).sum(-1) / np.maximum(present.sum(-1), 1)
