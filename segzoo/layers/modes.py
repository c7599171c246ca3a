"""Temporary modes: evaluation, channels last, recomputation, and shapes without values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# one entry per open ``recomputation``. Not of a thread: CUDA has a thread of its own for backward passes
_recomputing: list[bool] = []


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode during a ``with`` block.

    Afterwards every module is back in its own mode, including batch norm layers that were frozen in a model in training. A model that is
    in evaluation mode is not touched, so several threads may use it.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Keep convolution weights in NHWC order during a ``with`` block.

    The order can change the last bit of a logit, and the scores of a model must not depend on it. Afterwards the weights have their own
    order again. Weights that are already channels last are not touched, so several threads may use them.
    """
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    originals = [(weight, weight.data) for weight in weights if not weight.is_contiguous(memory_format=torch.channels_last)]
    for parameter, data in originals:
        parameter.data = data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for parameter, data in originals:
            parameter.data = data


@contextmanager
def recomputation(layers: Collection[nn.Module]) -> Iterator[None]:
    """Run layers a second time in a ``with`` block, without further effects.

    Their buffers are replaced by copies, so that batch norm counts a batch in its running statistics once. ``is_recomputing`` is true.
    """
    owners = [module for layer in layers for module in layer.modules() if module._buffers]
    originals = [dict(module._buffers) for module in owners]
    _recomputing.append(True)
    try:
        for module in owners:
            module._buffers.update({name: None if tensor is None else tensor.clone() for name, tensor in module._buffers.items()})
        yield
    finally:
        _recomputing.pop()
        for module, buffers in zip(owners, originals, strict=True):
            module._buffers.update(buffers)


def is_recomputing() -> bool:
    """Return True inside ``recomputation``, where a hook must not store features."""
    return bool(_recomputing)


class ShapesOnly(TorchFunctionMode):
    """Skip batch norm in a ``with`` block, because it changes no shape.

    On the meta device, PyTorch decomposes every batch norm into some twenty operations, which is most of a forward pass. A batch with one
    value per channel still reaches PyTorch, which rejects it in training.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.batch_norm and args[0].numel() > args[0].shape[1]:
            return args[0]
        return func(*args, **(kwargs or {}))


class SkipInitialization(TorchFunctionMode):
    """Skip random initialization in a ``with`` block.

    It is for tensors that a checkpoint fills, and for the meta device. Tensors there have no values to draw, but PyTorch would import its
    compiler for it, which doubles the time to import torch.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
