"""Eager PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from segzoo.layers.conv import Classifier
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import InferenceFn, RuntimeRequest, as_float32, supports_precisions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@RUNTIMES.register
@supports_precisions(*DTYPES)
def eager(request: RuntimeRequest, *, channels_last: bool = True) -> InferenceFn:
    """Run the network in eager mode.

    Args:
        request: the network and its conditions, in fp32, bf16 or fp16.
        channels_last: keep feature maps in (N, H, W, C) memory order, which is the order of the input images.
    """
    network = cast_to_precision(request, channels_last)

    @torch.inference_mode()
    def run(images: Tensor) -> Tensor:
        with autocast(request):
            return as_float32(network(images)[0])

    return run


def cast_to_precision(request: RuntimeRequest, channels_last: bool) -> nn.Module:
    """Cast convolution weights to the requested precision.

    Classifiers and transposed convolutions of class scores compute in fp32.
    """
    for layer in request.model.modules():
        if isinstance(layer, nn.Conv2d) and not isinstance(layer, Classifier):
            layer.to(DTYPES[request.precision])
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return request.model.to(memory_format=memory_format)  # type: ignore[call-overload]


def autocast(request: RuntimeRequest) -> AbstractContextManager:
    """Create the autocast context that matches the precision of the weights."""
    if request.precision == "fp32":
        return nullcontext()
    return torch.autocast(request.example.device.type, DTYPES[request.precision], cache_enabled=False)
