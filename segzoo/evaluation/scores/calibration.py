"""Calibration of pixel confidences (Guo et al., ICML 2017, arXiv:1706.04599)."""

from __future__ import annotations

import numpy as np
import torch

from segzoo.evaluation.scores._base import ScoredImage, ScoreResult

UNIT = 2**24  # confidences are summed as integers of this fraction, so that no order of images or ranks changes the sum


class Calibration:
    """Expected calibration error and reliability curve over labeled pixels.

    The confidence is the largest class probability, after averaging over the passes of the protocol. It is right where that class is the
    label, whatever a threshold or a CRF makes of the probabilities.

    Args:
        ignore: the train id of ignored pixels.
        num_bins: number of bins M of equal width. Bin m holds confidences above (m - 1) / M, up to m / M.

    Attributes:
        counts: int64 (3, M), the pixels of each bin, the right ones, and the sum of their confidences in units of 1 / ``UNIT``.
    """

    name, needs_probabilities = "calibration", True

    def __init__(self, ignore: int, num_bins: int):
        self.ignore, self.num_bins = ignore, num_bins
        self.counts = np.zeros((3, num_bins), np.int64)

    def add_rows(self, probabilities: torch.Tensor, label: np.ndarray) -> None:
        confidence, best = probabilities.float().max(0)
        ids = torch.from_numpy(label.astype(np.int64)).to(probabilities.device)
        self._add(confidence[ids != self.ignore], (best == ids)[ids != self.ignore])

    def update(self, image: ScoredImage) -> None:
        """Do nothing more, as all rows have been added."""

    def _add(self, confidence: torch.Tensor, right: torch.Tensor) -> None:
        edges = torch.arange(1, self.num_bins, device=confidence.device) / self.num_bins
        bins = torch.bucketize(confidence, edges)  # an edge belongs to the bin below
        units = (confidence.double() * UNIT).round()  # their sums are exact in float64
        for row, weights in enumerate((torch.ones_like(units), right.double(), units)):
            self.counts[row] += torch.bincount(bins, weights, self.num_bins).round().long().cpu().numpy()

    def merge(self, other: Calibration) -> None:
        self.counts += other.counts

    def result(self) -> ScoreResult:
        """Compute the calibration error and the reliability curve.

        Returns:
            ``ece``, ``mce`` (the largest gap of a bin), ``confidence`` and ``acc``, the means over all pixels, and ``bins`` with ``low``,
            ``high``, ``pixels``, ``confidence`` and ``acc`` each, None in an empty bin. The table is ``calibration.csv``.
        """
        pixels, right, units = self.counts
        total, filled = int(pixels.sum()), np.maximum(pixels, 1)
        confidence, accuracy = units / UNIT / filled, right / filled
        gaps = np.abs(accuracy - confidence)
        bins = [
            {
                "low": m / self.num_bins,
                "high": (m + 1) / self.num_bins,
                "pixels": int(pixels[m]),
                "confidence": float(confidence[m]) if pixels[m] else None,
                "acc": float(accuracy[m]) if pixels[m] else None,
            }
            for m in range(self.num_bins)
        ]
        values = {
            "ece": float((pixels * gaps).sum() / total),
            "mce": float(gaps[pixels > 0].max()),
            "confidence": float(units.sum() / UNIT / total),
            "acc": float(right.sum() / total),
            "bins": bins,
        }
        line = f"calibration error (ECE) {100 * values['ece']:.2f}: confidence {100 * values['confidence']:.2f}, accuracy {100 * values['acc']:.2f}"
        return ScoreResult(values, {"calibration.csv": [list(bins[0]), *(list(row.values()) for row in bins)]}, [line])
