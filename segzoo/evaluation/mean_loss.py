"""Mean loss over the images of a data set."""

from __future__ import annotations

from torch import Tensor

from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.types import Logits, SegmentationLoss


class MeanLoss:
    """Mean of a loss over images that are added one by one.

    It is the loss of all images as one batch. Each part of the loss has a divisor of its own: the mean of cross-entropy is over valid
    pixels, that of dice over images.
    """

    def __init__(self, loss: SegmentationLoss):
        self.parts = loss.parts
        self._sums = [(0.0, 0.0)] * len(self.parts)  # of the losses, and of their divisors

    def add(self, logits: Logits, label: Tensor) -> None:
        """Add images with logits of the main head alone."""
        for index, (factor, part) in enumerate(self.parts):
            total, divisor = self._sums[index]
            weight = float(part.weight(label, logits)[0])
            self._sums[index] = (total + factor * float(part(logits, label)) * weight, divisor + weight)

    def compute(self, distributed: Distributed = SINGLE_PROCESS) -> float | None:
        """Compute the mean over the images of all ranks.

        None if no image has a label that counts.
        """
        by_part = [
            [sum(values) for values in zip(*part, strict=True)] for part in zip(*distributed.gather(self._sums), strict=True)
        ]
        return sum(total / divisor for total, divisor in by_part if divisor) if any(divisor for _, divisor in by_part) else None
