"""Convolutions with batch norm, and classifiers in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class ConvBN(nn.Module):
    """A bias-free convolution, batch norm and, by default, a ReLU.

    Weights are drawn from a normal distribution with variance 2 / fan-in (He et al., ICCV 2015, arXiv:1502.01852). Batch norm
    starts as the identity.

    Args:
        cin: input channels.
        cout: output channels.
        kernel: kernel size in pixels, odd. The padding keeps the size of the feature map at stride 1.
        stride: stride in pixels.
        dilation: distance between kernel taps in pixels.
        relu: whether a ReLU follows the batch norm.
        norm: builds the batch norm layer from the number of channels.

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
    """A convolution with bias that computes class scores in fp32.

    It leaves autocast: low precision in such a narrow layer costs accuracy, saves nothing, and has corrupted memory on CPUs in
    bfloat16.

    Args:
        cin: input channels.
        num_classes: number of classes, K.
        kernel: kernel size in pixels, odd. The feature map keeps its size.

    Shapes:
        (N, cin, H, W) of any float type -> (N, K, H, W) float32
    """

    def __init__(self, cin: int, num_classes: int, *, kernel: int = 1):
        super().__init__(cin, num_classes, kernel, padding=kernel // 2)

    def forward(self, input: Tensor) -> Tensor:
        with autocast_disabled(input):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(input.float(), self.weight.float(), bias)


def concatenate(features: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Concatenate feature maps along channels in the memory order of the first.

    ``torch.cat`` alone would return NCHW if another is expanded from one pixel. Then it transposes the others while it copies them, and a
    channels-last convolution transposes the result back, in the forward pass and again in the backward pass.
    """
    if not torch.compiler.is_exporting() and features.is_contiguous(memory_format=torch.channels_last):  # type: ignore[attr-defined]
        others = [other.contiguous(memory_format=torch.channels_last) for other in others]
    return torch.cat([features, *others], 1)


def init_normal_(conv: nn.Conv2d, std: float) -> None:
    """Initialize a convolution as the Caffe recipes initialize new layers.

    Weights are normal with standard deviation ``std``, biases are zero.
    """
    nn.init.normal_(conv.weight, std=std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def autocast_disabled(x: Tensor) -> AbstractContextManager:
    """A context in which arithmetic keeps the type of ``x``.

    It does nothing on the meta device, which has no autocast.
    """
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
