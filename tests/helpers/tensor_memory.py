"""Bytes of the tensors that are alive, without those of libraries."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class TensorMemory(TorchDispatchMode):
    """Tracks the storage of each tensor that an operation returns.

    Attributes:
        alive: bytes of the tensors that exist.
        peak: the largest ``alive`` so far.
        largest: elements of the largest tensor so far.
    """

    def __init__(self):
        super().__init__()
        self.alive = self.peak = self.largest = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, torch.Tensor):
                self._track(each)
        return result

    def _track(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self.alive += size
            self.peak, self.largest = max(self.peak, self.alive), max(self.largest, size // tensor.element_size())

    def _forget(self, key: int, size: int) -> None:
        del self._known[key]
        self.alive -= size


def peak_bytes(function: Callable[[], object]) -> int:
    """Peak bytes of the tensors that a function creates."""
    with torch.no_grad(), TensorMemory() as memory:
        function()
    return memory.peak
