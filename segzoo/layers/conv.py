"""Convolutions, with batch norm and fused with it, and classifiers in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_Stride = int | tuple[int, ...]
HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


class Conv2d(nn.Conv2d):
    """A convolution that oneDNN computes on one CPU thread, too.

    Arguments are those of ``torch.nn.Conv2d``.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            return conv1x1(input, weight, bias, self.stride, self.groups)
        return super()._conv_forward(input, weight, bias)


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
        self.conv = Conv2d(cin, cout, kernel, stride, padding, dilation, bias=False)
        self.bn = norm(cout)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Classifier(Conv2d):
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


def conv1x1(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: _Stride = 1, groups: int = 1) -> Tensor:
    """Convolve with 1x1 kernels by oneDNN, on one CPU thread too.

    On one thread, torch leaves them in fp32 to a matrix product of MKL, which takes twice as long as oneDNN on an AMD processor with
    AVX-512. It passes dilated ones to oneDNN, and dilation changes nothing in a 1x1 kernel.

    Shapes:
        (N, cin, H, W) -> (N, cout, ceil(H/stride), ceil(W/stride))
    """
    return F.conv2d(input, weight, bias, stride, dilation=2 if _avoids_onednn(input) else 1, groups=groups)


def _avoids_onednn(input: Tensor) -> bool:
    """Return whether torch computes 1x1 convolutions of this input without oneDNN."""
    if not HAS_AVX512 or input.device.type != "cpu" or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    return torch.compiler.is_compiling() or torch.get_num_threads() == 1  # a compiled network can run on any number of threads


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


@torch.no_grad()
def fuse_conv_bn_(model: nn.Module) -> int:
    """Fuse every batch norm into the convolution registered right before it.

    The model changes in place: the batch norm becomes an identity, or the activation inside it, as in timm. This relies on every block
    registering a batch norm directly after its convolution and calling the two in that order. Convolutions that standardize their
    weights in every forward pass (``eps``) are left as they are. The model must be in evaluation mode. The fused model computes
    the same output up to rounding, has fewer layers, and cannot be trained.

    Returns:
        The number of batch norm layers that were fused.

    Raises:
        ValueError: the model is in training mode, where batch norm depends on the batch.
    """
    if model.training:
        raise ValueError("fuse_conv_bn_ received a model in training mode, expected evaluation mode: call eval() first")
    fused = 0
    for module in model.modules():
        children = list(module.named_children())
        for (_, conv), (name, norm) in zip(children, children[1:], strict=False):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels):
                continue
            if hasattr(conv, "eps"):
                continue
            statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)  # type: ignore[arg-type]
            setattr(module, name, nn.Sequential(*norm.children()))  # empty, unless the batch norm has an activation inside
            fused += 1
    return fused
