"""Blobs of a label map: 8-connected pixels of one class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from segzoo.types import DatasetInfo


class Blobs(NamedTuple):
    """Connected components of a binary mask, in the order of their numbers.

    Attributes:
        numbers: (H, W) int32, 0 outside the blobs, which count from 1.
        areas: (N,) pixels of each blob.
        boxes: (N, 4) left, top, width and height in pixels.
    """

    numbers: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray


def find_blobs(mask: np.ndarray) -> Blobs:
    """Find the 8-connected components of a mask (H, W)."""
    import cv2

    _, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return Blobs(numbers, stats[1:, cv2.CC_STAT_AREA], stats[1:, : cv2.CC_STAT_AREA])


def class_blobs(label: np.ndarray, info: DatasetInfo) -> Iterator[tuple[int, Blobs]]:
    """Find the blobs of each class in a label map.

    Args:
        label: (H, W) train ids.
        info: info of the data set.

    Yields:
        Train id and blobs of each class in the label map, in ascending order. Ignored pixels belong to no class.
    """
    for value in np.unique(label).tolist():
        if value < info.num_classes and value != info.ignore:
            yield value, find_blobs(label == value)
