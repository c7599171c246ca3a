"""Exponential moving average of a model's weights.

Polyak and Juditsky, SIAM J. Control Optim. 1992, as an exponential moving average with the usual warm-up: its decay increases with
the number of steps, so that the first weights are soon forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segzoo.types import PlainDict


class ModelEma:
    """An exponential moving average (EMA) of a model's state dict.

    Integer tensors are copied. The average is evaluated and stored instead of the trained weights.

    Args:
        model: the model in training.
        decay: weight of the average in each update, 0 to 1. None disables the average, and every method does nothing.
    """

    def __init__(self, model: nn.Module, decay: float | None):
        self.model, self.decay = model, decay
        self.reset()

    def reset(self) -> None:
        """Start over from the model's current weights."""
        self.steps = 0
        self.tensors: dict[str, Tensor] = {}
        if self.decay is not None:
            self.tensors = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the weights after a step."""
        if self.decay is None:
            return
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}  # of averages and weights
        for name, tensor in self.model.state_dict().items():
            for same_type, each in zip(pairs.setdefault(tensor.dtype, ([], [])), (self.tensors[name], tensor), strict=True):
                same_type.append(each)
        for dtype, (means, weights) in pairs.items():  # on a GPU, a few operations for all tensors
            if dtype.is_floating_point:
                torch._foreach_lerp_(means, weights, 1 - decay)  # type: ignore[attr-defined]
            else:
                torch._foreach_copy_(means, weights)  # type: ignore[attr-defined]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A ``with`` block in which the model holds the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> PlainDict:
        """The state that a checkpoint stores in addition to the average.

        Call it inside ``applied``, where this object holds the trained weights.
        """
        return {} if self.decay is None else {"steps": self.steps, "trained": {n: t.cpu() for n, t in self.tensors.items()}}

    def restore(self, saved: PlainDict) -> None:
        """Restore the output of ``state``.

        The model must hold the average. With an empty state, the average starts over from the model's weights. Without ``decay``, training
        continues from the trained weights.
        """
        if self.decay is None and saved:
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(saved["trained"][name])
        if self.decay is None or not saved:
            self.reset()
            return
        self.steps = saved["steps"]
        for name, tensor in saved["trained"].items():
            self.tensors[name] = tensor.to(self.tensors[name].device)  # not copied in place: a pruned tensor is smaller
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if self.decay is None:
            return
        for name, tensor in self.model.state_dict().items():
            current = tensor.clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(current)
