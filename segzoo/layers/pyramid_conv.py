"""Convolution of pyramid features without upsampling or concatenating them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        taps = conv.weight.detach()[:, features:].permute(2, 3, 0, 1).reshape(9 * cout, -1, 1, 1)  # rows, columns, cout
        self.taps = nn.Conv2d(taps.shape[1], 9 * cout, 1, bias=False)
        self.taps.weight = nn.Parameter(taps.clone())

    def forward(self, features: Tensor, pooled: Sequence[Tensor]) -> Tensor:
        main = self.conv(features)
        batch, cout, height, width = main.shape
        upsampled_rows, column_weights, first = [], [], 0
        for grid in pooled:
            channels, side = grid.shape[1], grid.shape[-1]
            products = F.conv2d(grid, self.taps.weight[:, first : first + channels]).float()
            first += channels
            # (N, columns, side, rows, side, cout)
            products = products.view(batch, 3, 3, cout, side, side).permute(0, 2, 5, 1, 4, 3)
            down = _tap_weights(height, side, self.align_corners).to(products.device)
            upsampled_rows.append(torch.matmul(down.t(), products.reshape(batch, 3 * side, 3 * side, cout)))  # (N, 3 side, H, cout)
            column_weights.append(_tap_weights(width, side, self.align_corners).to(products.device))
        if not pooled:
            return main
        across = torch.cat(column_weights).t()
        upsampled = torch.matmul(across, torch.cat(upsampled_rows, 1).transpose(1, 2))  # (N, H, W, cout)
        return main + upsampled.permute(0, 3, 1, 2).to(main.dtype)


def _tap_weights(size: int, sources: int, align_corners: bool) -> Tensor:
    """Source weights of the taps of a 3-tap convolution over upsampled pixels.

    The convolution is padded by one pixel. Its taps read the previous pixel, the pixel itself and the next one.

    Returns:
        (3 sources, size) float32
    """
    padded = F.pad(bilinear_matrix(sources, size, align_corners).t(), (1, 1))
    return torch.cat([padded[:, tap : tap + size] for tap in range(3)])
