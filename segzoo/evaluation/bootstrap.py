"""How far a score would move with other images: the bootstrap over the images of a data set.

Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13: as many images as there are, drawn with replacement, again and
again; the middle 95 % of their scores. Two networks are compared on the same draws, since a hard image is hard for both.
"""

from __future__ import annotations

import numpy as np

DRAWS, SEED = 2000, 0


def bootstrap_miou(pictures: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mIoU over images like these, as fractions.

    Args:
        images: counts (N, 3, K) as ``Evaluation.pictures`` holds them.
    """
    low, high = np.percentile(_resampled_mious(pictures), (2.5, 97.5))
    return float(low), float(high)


def paired_bootstrap_miou(pictures: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """By how much the mIoU of one network is above another's on the same images: ``difference``, and ``low`` and ``high`` of its interval.

    Args:
        images, others: counts (N, 3, K) of both, image by image.

    Raises:
        ValueError: they are not of the same images and classes.
    """
    if pictures.shape != others.shape or (pictures[:, 1] != others[:, 1]).any():
        raise ValueError(f"counts {pictures.shape} and {others.shape} are not of the same labels: score both on the same images")
    drawn = _resampled_mious(pictures) - _resampled_mious(others)
    low, high = np.percentile(drawn, (2.5, 97.5))
    found = _miou(pictures.sum(0)[None]) - _miou(others.sum(0)[None])
    return {"difference": float(found[0]), "low": float(low), "high": float(high)}


def _resampled_mious(pictures: np.ndarray) -> np.ndarray:
    """The mIoU of each draw."""
    count = len(pictures)
    times = np.random.default_rng(SEED).multinomial(count, [1 / count] * count, size=DRAWS)
    return _miou((times @ pictures.reshape(count, -1)).reshape(DRAWS, *pictures.shape[1:]))


def _miou(counts: np.ndarray) -> np.ndarray:
    """mIoU of counts (..., 3, K) over the classes that their labels hold."""
    hits, labeled, predicted = np.moveaxis(counts, -2, 0)
    present = labeled > 0
    iou = np.where(present, hits / np.maximum(labeled + predicted - hits, 1), 0)
    return iou.sum(-1) / np.maximum(present.sum(-1), 1)
