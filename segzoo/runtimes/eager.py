"""PyTorch as it is, operation by operation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from segzoo.layers.conv import Classifier
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import Call, RuntimeRequest, classifier_layers, supports_precisions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@RUNTIMES.register
@supports_precisions(*DTYPES)
def eager(order: RuntimeRequest, *, channels_last: bool = True) -> Call:
    """Runs the layers one by one.

    Args:
        order: what to run; fp32, bf16 or fp16.
        channels_last: keep maps as (N, H, W, C) in memory, which is how the images come.
    """
    net = cast_to_precision(order, channels_last)

    @torch.inference_mode()
    def call(pictures: Tensor) -> Tensor:
        with autocast(order):
            return classifier_layers(net(pictures)[0])

    return call


def cast_to_precision(order: RuntimeRequest, channels_last: bool) -> nn.Module:
    """The network with the weights of its convolutions in the order's number format; scores stay fp32."""
    for layer in order.model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not isinstance(layer, Classifier):
            layer.to(DTYPES[order.precision])
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return order.model.to(memory_format=layout)  # type: ignore[call-overload]


def autocast(order: RuntimeRequest) -> AbstractContextManager:
    """The context of a call: maps follow the format of the weights."""
    if order.precision == "fp32":
        return nullcontext()
    return torch.autocast(order.example.device.type, DTYPES[order.precision], cache_enabled=False)
