"""Boundary IoU (Cheng et al., CVPR 2021, arXiv:2103.16562)."""

from __future__ import annotations

import numpy as np

from segzoo.evaluation.scores._base import ScoredImage, ScoreResult
from segzoo.evaluation.scores._contours import diagonal_fraction


class BoundaryIoU:
    """IoU of the pixels of a class close to its boundary.

    As in the authors' code, a pixel is close if the square of 2d + 1 pixels around it holds a pixel of another class or ends outside the
    image, with d = ``ratio`` times the image diagonal, rounded, at least 1. Both maps count their own boundary. Pixels are summed over all
    images before the division, as for the IoU. Ignored pixels belong to no class in both maps.

    Args:
        classes: K class names.
        ignore: the train id of ignored pixels.
        ratio: distance d as a fraction of the image diagonal.

    Attributes:
        counts: int64 (3, K), the pixels of both boundaries, of the labeled and of the predicted one.
    """

    name = "boundary_iou"

    def __init__(self, classes: tuple[str, ...], ignore: int, ratio: float):
        self.classes, self.ignore, self.ratio = classes, ignore, ratio
        self.counts = np.zeros((3, len(classes)), np.int64)

    def update(self, image: ScoredImage) -> None:
        size = len(self.classes)
        distance = max(1, round(diagonal_fraction(image.label.shape, self.ratio)))
        labeled, predicted = (self._boundary(labels, distance) for labels in (image.label, image.pred))
        for row, labels in enumerate((labeled[labeled == predicted], labeled, predicted)):
            self.counts[row] += np.bincount(labels.ravel(), minlength=size + 1)[:size]

    def merge(self, other: BoundaryIoU) -> None:
        self.counts += other.counts

    def result(self) -> ScoreResult:
        """Compute the boundary IoU of each class labeled at all.

        Returns:
            ``miou``, the mean over these classes, ``per_class``, None for the others, and ``ratio``. The table is ``boundary_iou.csv``.
        """
        shared, labeled, predicted = self.counts
        present = labeled > 0
        iou = shared / np.maximum(labeled + predicted - shared, 1)
        mean = float(iou[present].mean()) if present.any() else None
        per_class = {name: float(iou[k]) if present[k] else None for k, name in enumerate(self.classes)}
        rows: list[list[object]] = [[name, per_class[name], *self.counts[:, k].tolist()] for k, name in enumerate(self.classes)]
        header: list[object] = ["class", "boundary_iou", "shared_pixels", "labeled_pixels", "predicted_pixels"]
        line = "no boundary IoU: no class is labeled" if mean is None else f"boundary IoU {100 * mean:.2f} (mean over classes)"
        values = {"miou": mean, "per_class": per_class, "ratio": self.ratio}
        return ScoreResult(values, {"boundary_iou.csv": [header, *rows]}, [line])

    def _boundary(self, labels: np.ndarray, distance: int) -> np.ndarray:
        """Set the labels far from a boundary to K.

        One erosion and one dilation serve all classes: where they agree, the window has a single class.
        """
        import cv2

        outside = len(self.classes)
        known = np.where(labels == self.ignore, outside, labels).astype(np.uint8 if outside < 256 else np.uint16)
        padded = cv2.copyMakeBorder(known, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=[outside])
        low, high = (change(padded, np.ones((3, 3), np.uint8), iterations=distance) for change in (cv2.erode, cv2.dilate))
        return np.where((low != high)[1:-1, 1:-1], known, outside)
