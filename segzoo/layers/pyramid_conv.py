"""Convolution of pyramid features without upsampling or concatenating them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.conv import Conv2d, ConvBN, autocast_disabled, concatenate, conv1x1
from segzoo.layers.pyramid_pooling import upsample_pooled
from segzoo.layers.resize import bilinear_matrix


class FactorizedPyramidConv(nn.Module):
    """A padded 3x3 convolution over features and upsampled pooled maps.

    It equals ``conv(torch.cat([features, *(resize(p, size) for p in pooled)], 1))`` up to rounding. Upsampling and convolution are
    both linear, so each pooled map is multiplied by the nine kernel taps at its own b x b pixels, and the products are upsampled
    afterwards. This saves half of the multiply-adds of PSPNet's widest layer, and the concatenated map is never built.

    Args:
        conv: a 3x3 convolution of stride 1 and padding 1 over the concatenated channels.
        features: channels of the features, which come first.
        align_corners: how pooled maps are upsampled.

    Shapes:
        (N, features, H, W), [(N, C_i, b_i, b_i), ...] -> (N, cout, H, W)
    """

    def __init__(self, conv: nn.Module, features: int, align_corners: bool):
        super().__init__()
        if (
            not isinstance(conv, nn.Conv2d)
            or conv.kernel_size != (3, 3)
            or conv.stride != (1, 1)
            or conv.padding != (1, 1)
            or conv.dilation != (1, 1)
        ):
            raise ValueError(
                f"FactorizedPyramidConv received {conv}, expected a 3x3 convolution with stride, padding and dilation 1"
            )
        self.align_corners = align_corners
        cout = conv.out_channels
        self.conv = nn.Conv2d(features, cout, 3, padding=1)
        self.conv.weight = nn.Parameter(conv.weight.detach()[:, :features].clone())
        self.conv.bias = nn.Parameter(torch.zeros(cout) if conv.bias is None else conv.bias.detach().clone())
        taps = _tap_kernels(conv.weight.detach()[:, features:])
        self.taps = Conv2d(taps.shape[1], 9 * cout, 1, bias=False)
        self.taps.weight = nn.Parameter(taps.clone())

    def forward(self, features: Tensor, pooled: Sequence[Tensor]) -> Tensor:
        return _add_pooled(self.conv(features), pooled, self.taps.weight, self.align_corners)


class PyramidConvBN(ConvBN):
    """A 3x3 ``ConvBN`` over features and pooled maps, upsampled and concatenated.

    In training it is computed as in ``FactorizedPyramidConv``, in half of the multiply-adds and without the concatenated map. Evaluation
    keeps the order of the release. Both are equal up to rounding.

    Args:
        features: channels of the features, which come first.
        pooled: channels of all pooled maps together.
        cout: output channels.
        align_corners: how pooled maps are upsampled.

    Shapes:
        (N, features, H, W), [(N, C_i, b_i, b_i), ...] -> (N, cout, H, W)
    """

    def __init__(self, features: int, pooled: int, cout: int, align_corners: bool):
        super().__init__(features + pooled, cout, 3)
        self.align_corners = align_corners

    def forward(self, features: Tensor, pooled: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        if not self.training:
            upsampled = [upsample_pooled(grid, features.shape[-2:], self.align_corners) for grid in pooled]
            return super().forward(concatenate(features, upsampled))
        channels = features.shape[1]  # the gradient of split is one concatenation, that of slices a sum of zero-filled tensors
        main, rest = self.conv.weight.split([channels, self.conv.in_channels - channels], 1)
        x = F.conv2d(features, main, padding=1)
        with autocast_disabled(x):
            x = _add_pooled(x, [grid.to(rest.dtype) for grid in pooled], _tap_kernels(rest), self.align_corners)
        return self.relu(self.bn(x))


def _tap_kernels(weight: Tensor) -> Tensor:
    """The nine taps of a 3x3 convolution as kernels of 1x1.

    Shapes:
        (cout, C, 3, 3) -> (9 cout, C, 1, 1), in the order of rows, columns and outputs
    """
    return weight.permute(2, 3, 0, 1).reshape(9 * weight.shape[0], -1, 1, 1)


def _add_pooled(main: Tensor, pooled: Sequence[Tensor], taps: Tensor, align_corners: bool) -> Tensor:
    """Add the upsampled products of pooled maps to a convolution.

    Shapes:
        main (N, cout, H, W), [(N, C_i, b_i, b_i), ...], taps as of ``_tap_kernels`` -> (N, cout, H, W)
    """
    batch, cout, height, width = main.shape
    upsampled_rows, column_weights = [], []
    for grid, kernels in zip(pooled, taps.split([grid.shape[1] for grid in pooled], 1), strict=True):
        side = grid.shape[-1]
        products = conv1x1(grid, kernels)
        products = products.to(torch.promote_types(products.dtype, torch.float32))
        # (N, columns, side, rows, side, cout)
        products = products.view(batch, 3, 3, cout, side, side).permute(0, 2, 5, 1, 4, 3)
        down, across = (_tap_weights(size, side, align_corners, products.device).to(products.dtype) for size in (height, width))
        upsampled_rows.append(torch.matmul(down.t(), products.reshape(batch, 3 * side, 3 * side, cout)))  # (N, 3 side, H, cout)
        column_weights.append(across)
    if not pooled:
        return main
    upsampled = torch.matmul(torch.cat(column_weights).t(), torch.cat(upsampled_rows, 1).transpose(1, 2))  # (N, H, W, cout)
    return main + upsampled.permute(0, 3, 1, 2).to(main.dtype)


def _tap_weights(size: int, sources: int, align_corners: bool, device: torch.device) -> Tensor:
    """Source weights of the taps of a 3-tap convolution over upsampled pixels.

    The convolution is padded by one pixel. Its taps read the previous pixel, the pixel itself and the next one.

    Returns:
        (3 sources, size) float32
    """
    padded = F.pad(bilinear_matrix(sources, size, align_corners, device).t(), (1, 1))
    return torch.cat([padded[:, tap : tap + size] for tap in range(3)])
