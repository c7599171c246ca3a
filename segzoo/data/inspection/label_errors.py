"""Regions where a confident prediction contradicts the label.

A region is a connected set of pixels with one label and one other predicted class, as label errors affect whole objects (Rottmann and Reese,
WACV 2023, arXiv:2207.06104). Its probabilities are compared with those that are usual for the two classes, as in confident learning
(Northcutt et al., JAIR 2021, arXiv:1911.00068), so that a class that the network rarely recognizes does not fill the list. An image is as
suspicious as its worst region, as the worst pixels tell more about the labels of an image than the mean of all (Lad and Mueller, 2023,
arXiv:2307.05080).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from segzoo.data.inspection.blobs import Blobs, find_blobs
from segzoo.types import DatasetInfo

BOUNDARY = 0.01  # default tolerance at boundaries, as a fraction of the longer side of the image
HALF_AREA = 0.0005  # of the image
CALIBRATION = 0.5  # of usual probabilities: 0 ignores them, 1 subtracts all of them as confident learning does; chosen on CamVid


class Region(NamedTuple):
    """Connected pixels whose prediction contradicts their label.

    Attributes:
        label, prediction: train ids.
        box: left, top, width and height in pixels.
        pixels: area of the region.
        area: the same, as a fraction of the image.
        coverage: its largest share of an object, which is a blob of its class in the label or in the prediction, 0 to 1.
        label_probability, predicted_probability: mean probabilities of the two classes over the region.
    """

    label: int
    prediction: int
    box: tuple[int, int, int, int]
    pixels: int
    area: float
    coverage: float
    label_probability: float
    predicted_probability: float


class ClassConfidence:
    """Mean probability that a network gives a class where it is labeled.

    Args:
        num_classes: number of classes.
    """

    def __init__(self, num_classes: int):
        self._sums, self._pixels = np.zeros(num_classes), np.zeros(num_classes)

    def add(self, label: np.ndarray, probabilities: np.ndarray, info: DatasetInfo) -> None:
        """Add the pixels of an image.

        Args:
            label: (H, W) train ids.
            probabilities: (K, H, W).
            info: info of the data set.
        """
        valid = label != info.ignore
        labels = np.where(valid, label, 0).astype(np.int64)
        of_label = np.take_along_axis(probabilities, labels[None], 0)[0]
        self._sums += np.bincount(labels[valid], of_label[valid], len(self._sums))
        self._pixels += np.bincount(labels[valid], minlength=len(self._pixels))

    def means(self) -> np.ndarray:
        """Mean of each class, (K,).

        A class without pixels has the mean of all pixels.
        """
        overall = self._sums.sum() / max(1.0, self._pixels.sum())
        return np.where(self._pixels > 0, self._sums / np.maximum(self._pixels, 1), overall)


def contradicting_regions(
    label: np.ndarray, probabilities: np.ndarray, info: DatasetInfo, boundary: int | None = None, min_area: float = 0.0
) -> list[Region]:
    """Find the regions of an image where label and prediction differ.

    Args:
        label: (H, W) train ids.
        probabilities: (K, H, W) class probabilities of the prediction.
        info: info of the data set.
        boundary: tolerance in pixels. A prediction is right if its class is labeled at most this far away in rows and columns. None means
            1 % of the longer side of the image.
        min_area: smallest region, as a fraction of the image.
    """
    predicted = probabilities.argmax(0)
    tolerance = round(BOUNDARY * max(label.shape)) if boundary is None else boundary
    differs = (predicted != label) & (label != info.ignore)
    for value in np.unique(predicted[differs]).tolist():
        differs &= (predicted != value) | ~_is_near(label == value, tolerance)
    pairs = np.where(differs, label.astype(np.int64) * info.num_classes + predicted, -1)
    min_pixels = max(1, min_area * label.size)
    labeled_blobs = cache(lambda value: find_blobs(label == value))
    predicted_blobs = cache(lambda value: find_blobs(predicted == value))
    regions = []
    for pair, count in zip(*np.unique(pairs[differs], return_counts=True), strict=True):
        if count < min_pixels:
            continue
        labeled, other = divmod(int(pair), info.num_classes)
        objects = labeled_blobs(labeled), predicted_blobs(other)
        for window, inside, box in _large_blobs(find_blobs(pairs == pair), min_pixels):
            pixels = int(inside.sum())
            smallest = min(blobs.areas[blobs.numbers[window][inside][0] - 1] for blobs in objects)
            means = (float(probabilities[value][window][inside].mean()) for value in (labeled, other))
            regions.append(Region(labeled, other, box, pixels, pixels / label.size, pixels / float(smallest), *means))
    return regions


def region_score(region: Region, confidence: np.ndarray) -> float:
    """Score how likely a region is labeled incorrectly, from 0 to 1.

    The score is the product of three terms: how much the network prefers its prediction to the label, less what is usual for these two
    classes; a term that rises with the area and is one half at ``HALF_AREA``; and the root of the coverage, as a network often errs at a
    part of a large object but seldom at a whole one.

    Args:
        region: from ``contradicting_regions``.
        confidence: usual probability of each class where it is labeled, (K,).
    """
    preference = region.predicted_probability - region.label_probability
    usual = float(confidence[region.prediction] - confidence[region.label])
    margin = min(1.0, max(0.0, preference - CALIBRATION * usual))
    return margin * region.area / (region.area + HALF_AREA) * region.coverage**0.5


def _is_near(mask: np.ndarray, distance: int) -> np.ndarray:
    """Find the pixels at most ``distance`` rows and columns from a mask."""
    import cv2

    side = 2 * distance + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)).astype(bool)


def _large_blobs(blobs: Blobs, min_pixels: float) -> Iterator[tuple[tuple[slice, slice], np.ndarray, tuple[int, int, int, int]]]:
    """Yield window, mask within it, and box of each large blob."""
    for number in np.flatnonzero(blobs.areas >= min_pixels).tolist():
        left, top, width, height = blobs.boxes[number].tolist()
        window = slice(top, top + height), slice(left, left + width)
        yield window, blobs.numbers[window] == number + 1, (left, top, width, height)
