"""Arrays in memory that processes share."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import numpy as np


class SharedArrays:
    """Arrays of one shape by index, each written once.

    Processes forked from the one that made them see what any of them has written. An array takes memory only once it is written. Two
    that write the same array at the same time have to write equal values. A pickled copy starts empty.

    Args:
        count: number of arrays.
        shape: of each array. They are uint8.

    Raises:
        OSError: the machine has less memory than all of them need.
    """

    def __init__(self, count: int, shape: tuple[int, ...]):
        self.count, self.shape = count, shape
        self._arrays = np.frombuffer(mmap.mmap(-1, count * math.prod(shape)), np.uint8).reshape(count, *shape)
        self._is_written = np.frombuffer(mmap.mmap(-1, count), np.bool_)

    def __reduce__(self) -> tuple:
        return SharedArrays, (self.count, self.shape)

    def get(self, index: int) -> np.ndarray | None:
        """Return an array, or None if it has not been written."""
        return self._arrays[index] if self._is_written[index] else None

    def put(self, index: int, rows: Sequence[np.ndarray]) -> None:
        """Write an array, given as its rows."""
        self._arrays[index] = rows
        self._is_written[index] = True  # last, so that a killed process leaves no half of an array
