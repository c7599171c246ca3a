"""Convolutions as every model here uses them: with batch norm, or scoring classes in full precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class ConvBN(nn.Module):
    """A bias-free convolution, batch norm and, by default, a ReLU.

    Weights start normal with variance 2 / fan-in (He et al., ICCV 2015, arXiv:1502.01852); batch norm starts as the identity.

    Args:
        cin: input channels.
        cout: output channels.
        kernel: kernel size in pixels, odd; the padding keeps the size of the map at stride 1.
        stride: step in pixels.
        dilation: distance between kernel taps in pixels.
        relu: whether a ReLU follows the batch norm.
        norm: makes the norm layer from the number of channels.

    Shapes:
        (N, cin, H, W) -> (N, cout, ceil(H/stride), ceil(W/stride))
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        norm: Callable[[int], nn.BatchNorm2d] = nn.BatchNorm2d,
    ):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, dilation, bias=False)
        self.bn = norm(cout)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Classifier(nn.Conv2d):
    """A convolution with bias that turns features into class scores, always in fp32 and outside autocast.

    Low precision in so narrow a layer costs accuracy, saves nothing, and has corrupted memory on CPUs in bfloat16.

    Args:
        cin: input channels.
        num_classes: classes to score, K.
        kernel: kernel size in pixels, odd; the map keeps its size.

    Shapes:
        (N, cin, H, W) of any float type -> (N, K, H, W) float32
    """

    def __init__(self, cin: int, num_classes: int, *, kernel: int = 1):
        super().__init__(cin, num_classes, kernel, padding=kernel // 2)

    def forward(self, input: Tensor) -> Tensor:
        with autocast_disabled(input):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(input.float(), self.weight.float(), bias)


def init_normal_(conv: nn.Conv2d, std: float) -> None:
    """Starts a convolution normal with deviation ``std`` and without bias, as the Caffe recipes start new layers."""
    nn.init.normal_(conv.weight, std=std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def autocast_disabled(x: Tensor) -> AbstractContextManager:
    """The context in which arithmetic keeps the type of ``x``. The meta device has no autocast to leave."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
