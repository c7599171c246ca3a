"""Scores for inspection: connected defects, rejected images and thresholds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from segzoo.data.inspection.blobs import Blobs as LabeledBlobs
from segzoo.data.inspection.blobs import find_blobs
from segzoo.evaluation.scores._base import ScoredImage, ScoreResult
from segzoo.evaluation.scores._blob_tally import BlobTally, Match, match_blobs
from segzoo.messages import format_override, printable
from segzoo.types import PlainDict

THRESHOLDS = np.arange(1, 100) / 100  # operating points of the curve
Row = list[object]


class Blobs:
    """Precision and recall of connected blobs, and rejected images.

    A labeled blob is found at an overlap o if at least the fraction o of its pixels is predicted as its class, and a predicted blob is
    right if at least that fraction of its pixels is labeled as its class. An image is rejected if it has any predicted blob of a defect,
    and defective if it has any labeled one. At a point of the operating curve, a class is predicted wherever its probability reaches the
    threshold, as ``threshold={class: value}`` predicts it. Ignored pixels are left out.

    Args:
        classes: class names.
        ignore: the train id of ignored pixels.
        defects: train ids of the classes that reject an image.
        overlaps: fractions o, in 0 to 1.
        min_pixels: predicted blobs of fewer pixels are left out.
        recall: the blob recall for which a threshold is chosen.
        curve: also compute the operating curve, which needs probabilities.
    """

    name = "blobs"

    def __init__(
        self,
        classes: tuple[str, ...],
        ignore: int,
        defects: tuple[int, ...],
        overlaps: tuple[float, ...],
        min_pixels: int,
        recall: float,
        curve: bool,
    ):
        self.names, self.ignore, self.defects = [classes[k] for k in defects], ignore, defects
        self.overlaps, self.min_pixels, self.wanted, self.needs_probabilities = overlaps, min_pixels, recall, curve
        self.predicted = BlobTally(len(defects), overlaps, 1)
        self.curve = BlobTally(len(defects), overlaps, len(THRESHOLDS)) if curve else None
        self.rows: list[tuple[int, int, Row]] = []  # image, class, row of labeled_blobs.csv
        self._levels: list[np.ndarray] = []  # thresholds that the probabilities of the current image reach, (C, rows, W) uint8

    def add_rows(self, probabilities: torch.Tensor, label: np.ndarray) -> None:
        """Count the thresholds that each probability reaches.

        It takes a byte per pixel and defect, whatever the number of classes. Ignored pixels reach none.
        """
        thresholds = torch.tensor(THRESHOLDS, dtype=torch.float32, device=probabilities.device)
        reached = torch.bucketize(probabilities[list(self.defects)].float(), thresholds, right=True)
        levels = reached.to(torch.uint8).cpu().numpy()
        levels[:, label == self.ignore] = 0
        self._levels.append(levels)

    def update(self, image: ScoredImage) -> None:
        labeled = [find_blobs(image.label == k) for k in self.defects]
        matches = [match_blobs(image.pred == k, blobs, self.min_pixels) for k, blobs in zip(self.defects, labeled, strict=True)]
        self.predicted.add(labeled, [[match] for match in matches])
        if self.curve is not None:
            levels, self._levels = np.concatenate(self._levels, axis=1), []
            self.curve.add(labeled, [list(self._points(*pair)) for pair in zip(levels, labeled, strict=True)])
        for c, (blobs, match) in enumerate(zip(labeled, matches, strict=True)):
            for box, size, covered in zip(blobs.boxes.tolist(), blobs.areas.tolist(), match.covered.tolist(), strict=True):
                self.rows.append((image.index, c, [printable(image.name), self.names[c], *box, size, covered / size]))

    def _points(self, levels: np.ndarray, labeled: LabeledBlobs) -> Iterator[Match]:
        """Match one class at every threshold, from low to high.

        Only the box around the pixels of the lowest threshold is searched, and a threshold that predicts the same pixels as the one
        before costs nothing.
        """
        rows, columns = (np.flatnonzero(levels.any(axis)) for axis in (1, 0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if rows.size else (slice(0, 1), slice(0, 1))
        levels, inside = levels[box], labeled._replace(numbers=labeled.numbers[box])
        at_level = np.bincount(levels.ravel(), minlength=len(THRESHOLDS) + 1)
        match = None
        for level in range(1, len(THRESHOLDS) + 1):
            if match is None or at_level[level - 1]:
                match = match_blobs(levels >= level, inside, self.min_pixels)
            yield match

    def merge(self, other: Blobs) -> None:
        self.predicted.merge(other.predicted)
        if self.curve is not None and other.curve is not None:
            self.curve.merge(other.curve)
        self.rows += other.rows

    def result(self) -> ScoreResult:
        """Compute the scores of all blobs and images.

        Returns:
            The settings, ``images``, ``defective_images``, the ``reject_rate`` of all images, the ``false_rejects_per_1000`` images
            without a defect, ``missed_images``, and ``per_class`` with ``blobs``, ``predicted_blobs``, ``recall`` and ``precision`` by
            overlap, ``smallest_found`` and ``largest_missed`` in pixels at the lowest overlap. ``thresholds`` holds, by class and overlap,
            the highest ``threshold`` whose recall is at least ``wanted_recall``, with its scores; None if none is. Without the curve, it
            is None. Fractions without a blob or image are None. The tables are ``labeled_blobs.csv`` and ``operating_curve.csv``.
        """
        rows = [row for _, _, row in sorted(self.rows, key=lambda entry: entry[:2])]
        tally = self.predicted
        values: PlainDict = {
            "defects": self.names,
            "overlaps": list(self.overlaps),
            "min_pixels": self.min_pixels,
            "wanted_recall": self.wanted,
            "images": int(tally.good[-1] + tally.defective[-1]),
            "defective_images": int(tally.defective[-1]),
            **tally.images(-1, 0),
            "per_class": {name: self._class_scores(c, rows) for c, name in enumerate(self.names)},
            "thresholds": None if self.curve is None else {name: self._thresholds(c) for c, name in enumerate(self.names)},
        }
        header: Row = ["image", "class", "left", "top", "width", "height", "pixels", "covered"]
        tables = {"labeled_blobs.csv": [header, *rows]}
        if self.curve is not None:
            tables["operating_curve.csv"] = self._curve_rows(self.curve)
        return ScoreResult(values, tables, self._lines(values))

    def _class_scores(self, c: int, rows: list[Row]) -> PlainDict:
        sizes = [(row[6], row[7] >= self.overlaps[0]) for row in rows if row[1] == self.names[c]]  # type: ignore[operator]
        overlaps = [(f"{overlap:g}", o) for o, overlap in enumerate(self.overlaps)]
        return {
            "blobs": int(self.predicted.blobs[c]),
            "predicted_blobs": int(self.predicted.predicted[c, 0]),
            "recall": {key: self.predicted.recall(c, o, 0) for key, o in overlaps},
            "precision": {key: self.predicted.precision(c, o, 0) for key, o in overlaps},
            "smallest_found": min((size for size, found in sizes if found), default=None),  # type: ignore[type-var]
            "largest_missed": max((size for size, found in sizes if not found), default=None),  # type: ignore[type-var]
        }

    def _point(self, curve: BlobTally, c: int, o: int, p: int) -> PlainDict:
        scores = {"recall": curve.recall(c, o, p), "precision": curve.precision(c, o, p)}
        return {"threshold": float(THRESHOLDS[p])} | scores | curve.images(c, p)

    def _thresholds(self, c: int) -> dict[str, PlainDict | None]:
        """Find the highest threshold with the wanted recall, by overlap."""
        assert self.curve is not None
        chosen: dict[str, PlainDict | None] = {}
        for o, overlap in enumerate(self.overlaps):
            enough = np.flatnonzero(self.curve.found[c, o] >= self.wanted * self.curve.blobs[c] - 1e-9)
            point = int(enough[-1]) if enough.size and self.curve.blobs[c] else None
            chosen[f"{overlap:g}"] = None if point is None else self._point(self.curve, c, o, point)
        return chosen

    def _curve_rows(self, curve: BlobTally) -> list[Row]:
        """List every class and then any defect at every threshold."""
        scores = [f"{score} {overlap:g}" for overlap in self.overlaps for score in ("recall", "precision")]
        rows: list[Row] = [["class", "threshold", *scores, *curve.images(-1, 0)]]
        for c, name in enumerate([*self.names, "any defect"]):
            for p, threshold in enumerate(THRESHOLDS):
                has_blobs = c < len(self.names)
                pairs = [
                    value(c, o, p) if has_blobs else None
                    for o in range(len(self.overlaps))
                    for value in (curve.recall, curve.precision)
                ]
                rows.append([name, float(threshold), *pairs, *curve.images(c, p).values()])
        return rows

    def _lines(self, values: PlainDict) -> list[str]:
        low = f"{self.overlaps[0]:g}"
        lines = [
            f"{name}: {_percent(scores['recall'][low])} of {scores['blobs']} blobs found and {_percent(scores['precision'][low])} of "
            f"{scores['predicted_blobs']} predicted ones right at an overlap of {low}"
            for name, scores in values["per_class"].items()
        ]
        per_1000 = values["false_rejects_per_1000"]
        rejects = "no image is without a defect" if per_1000 is None else f"{per_1000:.1f} false rejects per 1000 good images"
        lines.append(
            f"images: {_percent(values['reject_rate'])} rejected, {values['missed_images']} defective ones missed, {rejects}"
        )
        for name, points in (values["thresholds"] or {}).items():
            if (point := points[low]) is not None:
                setting = format_override("threshold", {name: point["threshold"]})
                lines.append(
                    f"{setting} finds {_percent(point['recall'])} of {name}, {_percent(point['precision'])} of its blobs right"
                )
            elif values["per_class"][name]["blobs"]:
                lines.append(f"no threshold from 0.01 finds {_percent(self.wanted)} of {name}")
        return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
