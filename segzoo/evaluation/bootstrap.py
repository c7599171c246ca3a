"""Bootstrap confidence intervals of the mIoU, over images.

Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13: N images are drawn with replacement many times, and the middle 95 %
of the resulting scores form the interval. Two networks are compared on the same draws, since a hard image is hard for both.
"""

from __future__ import annotations

import numpy as np

DRAWS, SEED = 2000, 0
MIN_IMAGES = 10  # draws of fewer images are too alike for an interval that can be trusted


def bootstrap_miou(counts: np.ndarray) -> tuple[float, float] | None:
    """Compute the 95 % confidence interval of the mIoU, as fractions.

    Args:
        counts: (N, 3, K), as in ``Evaluation.per_image_counts``.

    Returns:
        Its bounds; None below ``MIN_IMAGES`` images.
    """
    if len(counts) < MIN_IMAGES:
        return None
    low, high = np.percentile(_resampled_mious(counts), (2.5, 97.5))
    return float(low), float(high)


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
    if len(counts) < MIN_IMAGES:
        raise ValueError(f"an interval needs {MIN_IMAGES} images or more, got {len(counts)}")
    differences = _resampled_mious(counts) - _resampled_mious(other_counts)
    low, high = np.percentile(differences, (2.5, 97.5))
    difference = mean_iou(counts.sum(0)[None]) - mean_iou(other_counts.sum(0)[None])
    return {"difference": float(difference[0]), "low": float(low), "high": float(high)}


def _resampled_mious(counts: np.ndarray) -> np.ndarray:
    """Compute the mIoU of each bootstrap draw."""
    num_images = len(counts)
    times = np.random.default_rng(SEED).multinomial(num_images, [1 / num_images] * num_images, size=DRAWS)
    return mean_iou((times @ counts.reshape(num_images, -1)).reshape(DRAWS, *counts.shape[1:]))


def mean_iou(counts: np.ndarray) -> np.ndarray:
    """Compute the mIoU of counts (..., 3, K) over the labeled classes."""
    hits, labeled, predicted = np.moveaxis(counts, -2, 0)
    present = labeled > 0
    iou = np.where(present, hits / np.maximum(labeled + predicted - hits, 1), 0)
    return iou.sum(-1) / np.maximum(present.sum(-1), 1)
