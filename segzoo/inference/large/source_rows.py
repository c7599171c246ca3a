"""Normalized rows of an image that is read from top to bottom."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from segzoo.layers.normalize import normalize
from segzoo.types import DatasetInfo

BLOCK = 64  # rows that are read at least
Read = Callable[[int, int], np.ndarray]  # first and end row -> (rows, W, 3) uint8, from top to bottom


class SourceRows:
    """Rows of an image, as ``Rows`` of 3 normalized channels.

    Every row is read once and held as bytes until it is released.

    Args:
        read: reads rows.
        size: height and width.
        info: provides mean and standard deviation.
        device: the device of normalized rows.
    """

    def __init__(self, read: Read, size: tuple[int, int], info: DatasetInfo, device: torch.device):
        self.read, self.size, self.info, self.device = read, size, info, device
        self._first, self._held = 0, np.empty((0, size[1], 3), np.uint8)

    def __call__(self, first: int, end: int) -> Tensor:
        """Return normalized rows (3, end - first, W)."""
        return normalize(torch.from_numpy(self.pixels(first, end)[None]), self.info, self.device)[0]

    def pixels(self, first: int, end: int) -> np.ndarray:
        """Return rows as bytes (end - first, W, 3)."""
        assert self._first <= first < end, f"rows {first} to {end} were released up to {self._first}"
        held = self._first + len(self._held)
        if end > held:
            added = self.read(held, min(max(end, held + BLOCK), self.size[0]))
            self._held = np.concatenate([self._held, added])
        return self._held[first - self._first : end - self._first]

    def release(self, first: int) -> None:
        """Drop all rows above ``first``."""
        dropped = min(max(0, first - self._first), len(self._held))
        if dropped >= BLOCK:  # each time the others are copied
            self._first, self._held = self._first + dropped, self._held[dropped:].copy()
