"""One confusion matrix for a data set, and the scores made from it. The trainer and the evaluator count with nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from segzoo.types import IGNORE, DataError, Scores


class ConfusionMatrix:
    """Counts pixels by (label, prediction) in 64-bit integers, so order, batching and ranks cannot change a score.

    Args:
        num_classes: number of classes K, at least 1.
        ignore: the train id whose pixels count nowhere; outside 0..K-1.

    Attributes:
        matrix: int64 (K, K), row = label, column = prediction.

    Raises:
        ValueError: ``ignore`` is one of the classes.
    """

    def __init__(self, num_classes: int, ignore: int = IGNORE):
        if num_classes < 1 or 0 <= ignore < num_classes:
            raise ValueError(f"wanted an ignore id outside 0..{num_classes - 1}, got {ignore}; give the data another ignore value")
        self.num_classes, self.ignore = num_classes, ignore
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, pred: Any, label: Any) -> None:
        """Adds the pixels of predicted and true train ids: arrays or tensors of whole numbers, of one shape.

        About 6 ns a pixel for uint8 (one pass over 16-bit codes, which also finds values out of range), more for wider types.

        Raises:
            TypeError: not whole numbers.
            ValueError: the shapes differ; a prediction is outside 0..K-1; a label is neither in 0..K-1 nor ``ignore``.
        """
        pred, label = _integer_error(pred, "prediction"), _integer_error(label, "label")
        if pred.shape != label.shape:
            raise ValueError(
                f"prediction {pred.shape} and label {label.shape} differ in size; grow the logits to the label's size first"
            )
        if pred.dtype == label.dtype == np.uint8 and self.num_classes <= 256:
            self.matrix += self._count_bytes(pred, label)
        else:
            self._add_wide(pred.ravel(), label.ravel())

    def _count_bytes(self, pred: np.ndarray, label: np.ndarray) -> np.ndarray:
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
        if size * size > 4 * codes.size:  # thousands of classes: a full table per image would cost more than sorting its pixels
            cells, counts = np.unique(codes, return_counts=True)
            self.matrix.reshape(-1)[cells] += counts
        else:
            self.matrix += np.bincount(codes, minlength=size * size).reshape(size, size)

    def _raise_out_of_range(self, predicted: np.ndarray, labeled: np.ndarray) -> None:
        """Raises if one of the values that occur is out of range."""
        last = self.num_classes - 1
        wrong = predicted[(predicted < 0) | (predicted > last)]
        if wrong.size:
            raise ValueError(f"predictions hold {_some(wrong)}; wanted 0..{last}. Was the model built for other classes?")
        wrong = labeled[((labeled < 0) | (labeled > last)) & (labeled != self.ignore)]
        if wrong.size:
            raise ValueError(
                f"labels hold {_some(wrong)}; wanted train ids 0..{last}, or {self.ignore} to ignore. Map them in the data's label_map"
            )

    def merge(self, other: Any) -> None:
        """Adds the counts of another matrix: a ConfusionMatrix, or its ``matrix`` as an array or tensor, such as another rank's sum.

        Raises:
            ValueError: it is for another number of classes.
        """
        counts = other.matrix if isinstance(other, ConfusionMatrix) else _integer_error(other, "matrix")
        if counts.shape != self.matrix.shape:
            raise ValueError(f"cannot merge a matrix {counts.shape} into {self.matrix.shape}: they count different classes")
        self.matrix += counts

    def scores(self, classes: tuple[str, ...], images: int, loss: float | None = None) -> Scores:
        """The scores of what was counted, as fractions.

        A class is present if the labels hold a pixel of it; ``miou`` and ``macc`` are means over the present classes, and an absent one has
        ``None`` for iou and acc. So the mean has the same denominator for every model. Pixels wrongly given to an absent class still count:
        as misses of the classes they belong to. Tools that take every class with a label or a prediction (mmsegmentation, torchmetrics)
        give 0 to an absent class as soon as one pixel is predicted as it; with every class in the labels all agree.

        Args:
            classes: K different names, by train id.
            images: number of images counted, handed through.
            loss: mean loss, handed through.

        Raises:
            ValueError: ``classes`` are not K different names.
            DataError: no labeled pixel was counted.
        """
        if len(classes) != self.num_classes or len(set(classes)) != self.num_classes:
            raise ValueError(f"wanted {self.num_classes} different class names, got {len(classes)}: {', '.join(classes)}")
        hits, pixels, predicted = np.diag(self.matrix), self.matrix.sum(1), self.matrix.sum(0)
        total = int(pixels.sum())
        if total == 0:
            raise DataError(
                f"none of {images} images has a labeled pixel, so there is nothing to score; check data.label_map and masks"
            )
        present = pixels > 0
        iou = hits / np.where(present, pixels + predicted - hits, 1)
        acc = hits / np.where(present, pixels, 1)
        per_class: dict[str, dict[str, float | int | None]] = {
            name: {
                "iou": float(iou[k]) if present[k] else None,
                "acc": float(acc[k]) if present[k] else None,
                "pixels": int(pixels[k]),
            }
            for k, name in enumerate(classes)
        }
        return Scores(
            miou=float(iou[present].mean()),
            macc=float(acc[present].mean()),
            aacc=float(hits.sum() / total),
            fwiou=float((pixels * iou).sum() / total),
            per_class=per_class,
            classes_present=int(present.sum()),
            images=images,
            loss=loss,
        )


def _integer_error(values: Any, what: str) -> np.ndarray:
    """The values as an array of whole numbers, from an array or a tensor of any device."""
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.dtype.kind not in "ui":
        raise TypeError(f"wanted whole numbers as {what}, got {array.dtype}; take the arg-max of logits first")
    return array


def _some(values: np.ndarray) -> str:
    words = ", ".join(str(value) for value in values[:8])
    return f"{words} and {values.size - 8} more" if values.size > 8 else words
