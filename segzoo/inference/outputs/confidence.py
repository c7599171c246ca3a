"""Maps of how certain a network is of its labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from segzoo.io import write_atomically
from segzoo.visualization.label_png import encode_png

Confidence = Literal["none", "max", "entropy"]
SCALES = {
    "max": "gray / 255 is the probability of the most probable class",
    "entropy": "gray / 255 is the entropy of the class probabilities divided by that of equal ones: 0 is certain, 255 a guess",
}


class ConfidenceMap:
    """Map of one image, collected in strips of rows.

    Args:
        kind: ``max`` or ``entropy``, on the scales of ``SCALES``.
    """

    def __init__(self, kind: Confidence):
        self.kind, self._strips = kind, []

    def __call__(self, probabilities: Tensor) -> None:
        """Add class probabilities (K, rows, W)."""
        if self.kind == "max":
            values = probabilities.amax(0)
        else:
            values = -torch.special.xlogy(probabilities, probabilities).sum(0) / math.log(max(2, len(probabilities)))
        self._strips.append((255 * values).round().clamp(0, 255).to(torch.uint8).cpu().numpy())

    def pixels(self) -> np.ndarray:
        """Return the map (H, W) uint8."""
        return np.concatenate(self._strips)


def write_confidence(path: Path, pixels: np.ndarray) -> None:
    """Write a map as an 8-bit gray PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(encode_png(pixels)), durable=False)
