"""Counts of found and of falsely predicted blobs at operating points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from segzoo.data.inspection.blobs import Blobs


class Match(NamedTuple):
    """Overlap of the blobs of a ground truth and of a prediction.

    Attributes:
        covered: predicted pixels of each labeled blob.
        sizes: pixels of each predicted blob.
        correct: labeled pixels of each predicted blob.
    """

    covered: np.ndarray
    sizes: np.ndarray
    correct: np.ndarray


def match_blobs(mask: np.ndarray, labeled: Blobs, min_pixels: int) -> Match:
    """Compare a predicted mask with the labeled blobs of its class.

    Args:
        mask: (H, W) bool.
        labeled: blobs, of the same crop of the image as the mask.
        min_pixels: smaller predicted blobs are left out.
    """
    import cv2

    count, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    blobs = components.astype(np.intp)
    sizes = np.bincount(blobs.ravel(), minlength=count)
    kept = sizes >= min_pixels
    kept[0] = False  # the pixels that are not predicted
    correct = np.bincount(blobs[labeled.numbers > 0], minlength=count)
    covered = np.bincount(labeled.numbers[kept[blobs]], minlength=len(labeled.areas) + 1)[1:]
    return Match(covered, sizes[kept], correct[kept])


class BlobTally:
    """Sums over images at each of P operating points.

    Attributes:
        blobs: int64 (C,), labeled blobs of each class.
        found, correct: int64 (C, O, P), labeled blobs found and predicted blobs that are right, by overlap.
        predicted: int64 (C, P), predicted blobs.
        good, defective: int64 (C + 1,), images without and with a labeled pixel of the class, and last of any class.
        false_rejects, caught: int64 (C + 1, P), the good and the defective images with a predicted blob.
    """

    def __init__(self, num_classes: int, overlaps: tuple[float, ...], num_points: int):
        self.overlaps = np.array(overlaps)[:, None]
        shape = num_classes, len(overlaps), num_points
        self.found, self.correct = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.blobs, self.predicted = np.zeros(num_classes, np.int64), np.zeros((num_classes, num_points), np.int64)
        self.good, self.defective = np.zeros(num_classes + 1, np.int64), np.zeros(num_classes + 1, np.int64)
        self.false_rejects = np.zeros((num_classes + 1, num_points), np.int64)
        self.caught = np.zeros_like(self.false_rejects)

    def add(self, labeled: list[Blobs], matches: list[list[Match]]) -> None:
        """Add one image.

        Args:
            labeled: the blobs of each class.
            matches: for each class the match at each operating point.
        """
        rejected = np.zeros(self.false_rejects.shape, bool)
        for c, (blobs, points) in enumerate(zip(labeled, matches, strict=True)):
            self.blobs[c] += len(blobs.areas)
            for p, match in enumerate(points):
                self.found[c, :, p] += (match.covered / blobs.areas >= self.overlaps).sum(1)
                self.correct[c, :, p] += (match.correct / match.sizes >= self.overlaps).sum(1)
                self.predicted[c, p] += len(match.sizes)
                rejected[c, p] = len(match.sizes) > 0
        defective = np.array([len(blobs.areas) > 0 for blobs in labeled] + [False])
        rejected[-1], defective[-1] = rejected.any(0), defective.any()
        self.good += ~defective
        self.defective += defective
        self.false_rejects += rejected & ~defective[:, None]
        self.caught += rejected & defective[:, None]

    def merge(self, other: BlobTally) -> None:
        for name in ("blobs", "found", "correct", "predicted", "good", "defective", "false_rejects", "caught"):
            getattr(self, name).__iadd__(getattr(other, name))

    def recall(self, c: int, o: int, p: int) -> float | None:
        """Fraction of the labeled blobs of class c found at overlap o."""
        return ratio(self.found[c, o, p], self.blobs[c])

    def precision(self, c: int, o: int, p: int) -> float | None:
        """Fraction of the predicted blobs of class c right at overlap o."""
        return ratio(self.correct[c, o, p], self.predicted[c, p])

    def images(self, c: int, p: int) -> dict[str, float | int | None]:
        """Describe the images that class c rejects, -1 for any class."""
        good, defective = int(self.good[c]), int(self.defective[c])
        false_rejects, caught = int(self.false_rejects[c, p]), int(self.caught[c, p])
        return {
            "reject_rate": ratio(false_rejects + caught, good + defective),
            "false_rejects_per_1000": None if good == 0 else 1000 * false_rejects / good,
            "missed_images": defective - caught,
        }


def ratio(part: int | np.integer, whole: int | np.integer) -> float | None:
    """Divide two counts, None if the whole is empty."""
    return float(part / whole) if whole else None
