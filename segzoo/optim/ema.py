"""The running average of the weights, which is evaluated and stored in their place.

Polyak and Juditsky, SIAM J. Control Optim. 1992; as an exponential moving average with the usual start, whose memory grows with the
steps taken so that the first weights are soon forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ModelEma:
    """An exponential moving average of everything in a model's state dict; whole numbers are copied.

    Args:
        model: the model that is trained.
        decay: share of the average that a step keeps, 0 to 1; None keeps no average, and every method does nothing.
    """

    def __init__(self, model: nn.Module, decay: float | None):
        self.model, self.decay, self.steps = model, decay, 0
        self.tensors: dict[str, Tensor] = {}
        if decay is not None:
            self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights after a step."""
        if self.decay is None:
            return
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in self.model.state_dict().items():
            mean = self.tensors[name]
            if tensor.is_floating_point():
                mean.lerp_(tensor, 1 - keep)
            else:
                mean.copy_(tensor)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A ``with`` block in which the model holds the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs beside the average, called where the model holds that: the weights in training."""
        return {} if self.decay is None else {"steps": self.steps, "trained": {n: t.cpu() for n, t in self.tensors.items()}}

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from ``state()``, the model holding the average; without one, from the weights as they are."""
        if self.decay is None or not saved:
            self.__init__(self.model, self.decay)
            return
        self.steps = saved["steps"]
        for name, tensor in saved["trained"].items():
            self.tensors[name] = tensor.to(self.tensors[name].device)  # a pruned one is smaller
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if self.decay is None:
            return
        for name, tensor in self.model.state_dict().items():
            kept = tensor.clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(kept)
