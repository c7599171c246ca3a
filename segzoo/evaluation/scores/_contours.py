"""Contours of label maps and distances to them."""

from __future__ import annotations

import math

import numpy as np


def contour(labels: np.ndarray) -> np.ndarray:
    """Mark the pixels that have a 4-neighbor of another label.

    Both sides of a border are marked. The image border is none.

    Shapes:
        (H, W) -> (H, W) bool
    """
    marked = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        before, after = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        marked[before] |= differs
        marked[after] |= differs
    return marked


def distance_to(marked: np.ndarray) -> np.ndarray:
    """Compute the Euclidean distance of each pixel to the nearest marked one.

    Shapes:
        (H, W) bool -> (H, W) float32, infinite if no pixel is marked
    """
    import cv2

    if not marked.any():
        return np.full(marked.shape, np.inf, np.float32)
    return cv2.distanceTransform((~marked).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def diagonal_fraction(shape: tuple[int, ...], fraction: float) -> float:
    """Compute a fraction of an image's diagonal, in pixels."""
    return fraction * math.hypot(*shape)
