"""Confusion matrix and the segmentation scores computed from it.

Training and evaluation share this code, so their scores agree.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from segzoo.class_names import background_id
from segzoo.types import IGNORE, DataError, PlainDict

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

COUNTS = ("hit", "labeled", "predicted")  # the rows of ``ConfusionMatrix.class_counts``


@dataclass(frozen=True)
class Scores:
    """Scores of one data set under one protocol, as fractions.

    ``per_class[name]`` holds ``iou``, ``acc``, ``pixels``, ``precision`` and ``f1``.
    """

    miou: float
    macc: float
    aacc: float
    fwiou: float
    per_class: dict[str, dict[str, float | int | None]]
    classes_present: int
    images: int
    loss: float | None = None
    miou_foreground: float | None = None  # without the background; None if there is none

    def to_dict(self) -> PlainDict:
        """Convert to plain JSON-compatible containers."""
        return asdict(self)


class ConfusionMatrix:
    """Pixel counts by (label, prediction) in 64-bit integers.

    Integer counts make a score independent of order, batching and ranks.

    Args:
        num_classes: number of classes K, at least 1.
        ignore: the train id whose pixels are not counted, outside 0..K-1.

    Attributes:
        matrix: int64 (K, K), row = label, column = prediction.

    Raises:
        ValueError: if ``ignore`` is one of the classes.
    """

    def __init__(self, num_classes: int, ignore: int = IGNORE):
        if num_classes < 1 or 0 <= ignore < num_classes:
            raise ValueError(
                f"expected an ignore id outside 0..{num_classes - 1}, got {ignore}; choose another ignore value for the data"
            )
        self.num_classes, self.ignore = num_classes, ignore
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, pred: ArrayLike | Tensor, label: ArrayLike | Tensor) -> None:
        """Count the pixels of a predicted label map.

        It takes about 6 ns per pixel for uint8, with one pass over 16-bit codes that also detects values out of range. Wider types take
        longer.

        Args:
            pred: predicted train ids, an integer array or tensor of any shape.
            label: ground-truth train ids, an integer array or tensor of the same shape.

        Raises:
            TypeError: if the values are not integers.
            ValueError: if the shapes differ, a prediction is outside 0..K-1, or a label is neither in 0..K-1 nor ``ignore``.
        """
        pred, label = _as_integers(pred, "prediction"), _as_integers(label, "label")
        if pred.shape != label.shape:
            raise ValueError(
                f"prediction {pred.shape} and label {label.shape} differ in size; upsample the logits to the label's size first"
            )
        if pred.dtype == label.dtype == np.uint8 and self.num_classes <= 256:
            self.matrix += self._count_bytes(pred, label)
        else:
            self._add_wide(pred.ravel(), label.ravel())

    def _count_bytes(self, pred: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Count (label, prediction) pairs of uint8 maps in one pass."""
        codes = (label.astype(np.uint16) << 8) | pred
        table = np.bincount(codes.ravel(), minlength=65536).reshape(256, 256)
        self._raise_out_of_range(np.flatnonzero(table.sum(0)), np.flatnonzero(table.sum(1)))
        return table[: self.num_classes, : self.num_classes]

    def _add_wide(self, pred: np.ndarray, label: np.ndarray) -> None:
        size = self.num_classes
        low, high = min(pred.min(initial=0), label.min(initial=0)), pred.max(initial=0)
        if low < 0 or high >= size or label[label != self.ignore].max(initial=0) >= size:
            self._raise_out_of_range(np.unique(pred), np.unique(label))
        valid = label != self.ignore
        codes = label[valid].astype(np.int64) * size + pred[valid]
        if size * size > 4 * codes.size:  # thousands of classes: sorting the pixels is cheaper than a full table per image
            cells, counts = np.unique(codes, return_counts=True)
            self.matrix.reshape(-1)[cells] += counts
        else:
            self.matrix += np.bincount(codes, minlength=size * size).reshape(size, size)

    def _raise_out_of_range(self, predicted: np.ndarray, labeled: np.ndarray) -> None:
        """Raise ValueError if any value that occurs is out of range."""
        last = self.num_classes - 1
        invalid = predicted[(predicted < 0) | (predicted > last)]
        if invalid.size:
            raise ValueError(
                f"predictions contain {_format_values(invalid)}; expected 0..{last}. Was the model built for other classes?"
            )
        invalid = labeled[((labeled < 0) | (labeled > last)) & (labeled != self.ignore)]
        if invalid.size:
            raise ValueError(
                f"labels contain {_format_values(invalid)}; expected train ids 0..{last}, or {self.ignore} to ignore. "
                "Map them in the data's label_map"
            )

    def merge(self, other: ConfusionMatrix | ArrayLike | Tensor) -> None:
        """Add the counts of another matrix.

        Args:
            other: a ConfusionMatrix, or its ``matrix`` as an array or tensor, such as the counts of another rank.

        Raises:
            ValueError: if the number of classes differs.
        """
        counts = other.matrix if isinstance(other, ConfusionMatrix) else _as_integers(other, "matrix")
        if counts.shape != self.matrix.shape:
            raise ValueError(f"cannot merge a matrix {counts.shape} into {self.matrix.shape}: they count different classes")
        self.matrix += counts

    def class_counts(self) -> np.ndarray:
        """Count the hit, labeled and predicted pixels per class.

        Returns:
            int64 (3, K), with the rows of ``COUNTS``.
        """
        return np.stack([self.matrix.diagonal(), self.matrix.sum(1), self.matrix.sum(0)])

    def errors(self) -> np.ndarray:
        """List the pairs of classes that are confused.

        Returns:
            int64 (M, 3), the label, prediction and pixels of each cell off the diagonal that is not empty.
        """
        label, pred = np.nonzero(self.matrix)
        wrong = label != pred
        return np.stack([label[wrong], pred[wrong], self.matrix[label[wrong], pred[wrong]]], axis=1)

    def scores(self, classes: tuple[str, ...], images: int, loss: float | None = None) -> Scores:
        """Compute the scores, as fractions.

        A class is present if any pixel is labeled with it. ``miou`` and ``macc`` are means over the present classes, and an absent class
        has ``None`` for all of its scores, so the mean has the same denominator for every model. Pixels wrongly predicted as an absent
        class still count as misses of their own class. Tools that average over every class with a label or a prediction (mmsegmentation,
        torchmetrics) score an absent class 0 as soon as one pixel is predicted as it. If every class is labeled, all tools agree.

        The acc of a class is its recall. Its precision is None if no pixel is predicted as the class. ``miou_foreground`` leaves out the
        background, if the first class is named like one.

        Args:
            classes: K distinct names, in the order of the train ids.
            images: number of images counted, copied into the scores.
            loss: mean loss, copied into the scores.

        Raises:
            ValueError: if ``classes`` are not K distinct names.
            DataError: if no labeled pixel was counted.
        """
        if len(classes) != self.num_classes or len(set(classes)) != self.num_classes:
            raise ValueError(f"expected {self.num_classes} different class names, got {len(classes)}: {', '.join(classes)}")
        hits, pixels, predicted = self.class_counts()
        total = int(pixels.sum())
        if total == 0:
            raise DataError(
                f"none of {images} images has a labeled pixel, so there is nothing to score; check data.label_map and the masks"
            )
        present = pixels > 0
        iou = hits / np.where(present, pixels + predicted - hits, 1)
        acc = hits / np.where(present, pixels, 1)
        per_class: dict[str, dict[str, float | int | None]] = {
            name: {
                "iou": float(iou[k]) if present[k] else None,
                "acc": float(acc[k]) if present[k] else None,
                "pixels": int(pixels[k]),
                "precision": float(hits[k] / predicted[k]) if present[k] and predicted[k] else None,
                "f1": float(2 * hits[k] / (pixels[k] + predicted[k])) if present[k] else None,
            }
            for k, name in enumerate(classes)
        }
        foreground = iou[1:][present[1:]] if background_id(classes) == 0 else iou[:0]
        return Scores(
            miou=float(iou[present].mean()),
            macc=float(acc[present].mean()),
            aacc=float(hits.sum() / total),
            fwiou=float((pixels * iou).sum() / total),
            per_class=per_class,
            classes_present=int(present.sum()),
            images=images,
            loss=loss,
            miou_foreground=float(foreground.mean()) if foreground.size else None,
        )


def _as_integers(values: ArrayLike | Tensor, name: str) -> np.ndarray:
    """Convert an integer array, or a tensor on any device, to NumPy."""
    detach = getattr(values, "detach", None)
    array = np.asarray(values if detach is None else detach().cpu())
    if array.dtype.kind not in "ui":
        raise TypeError(f"expected integers as {name}, got {array.dtype}; take the argmax of logits first")
    return array


def _format_values(values: np.ndarray) -> str:
    """List up to eight values."""
    listed = ", ".join(str(value) for value in values[:8])
    return f"{listed} and {values.size - 8} more" if values.size > 8 else listed
