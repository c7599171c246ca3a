"""A convolution over features joined with grown pooled maps, without growing or joining them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.resize import bilinear_matrix


class FactorizedPyramidConv(nn.Module):
    """Equals ``conv(torch.cat([features, *(resize(p, size) for p in pooled)], 1))`` for a padded 3x3 convolution, up to rounding.

    Growing and convolving are both linear, so each pooled map is multiplied by the nine taps while it has b x b pixels, and its
    contribution grown after. Half of the multiply-adds of PSPNet's widest layer are saved, and the joined map is never made.

    Args:
        conv: 3x3, stride 1, padding 1, over the joined channels.
        features: channels of the features, which come first.
        align_corners: how pooled maps grow.

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
            raise ValueError(f"ContextConv was given {conv}, wanted a 3x3 convolution of stride, padding and dilation 1")
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
        rows, across, first = [], [], 0
        for context in pooled:
            channels, side = context.shape[1], context.shape[-1]
            tapped = F.conv2d(context, self.taps.weight[:, first : first + channels]).float()
            first += channels
            tapped = tapped.view(batch, 3, 3, cout, side, side).permute(0, 2, 5, 1, 4, 3)  # (N, columns, side, rows, side, cout)
            down = _shifted(height, side, self.align_corners).to(tapped.device)
            rows.append(torch.matmul(down.t(), tapped.reshape(batch, 3 * side, 3 * side, cout)))  # (N, 3 side, H, cout)
            across.append(_shifted(width, side, self.align_corners).to(tapped.device))
        if not pooled:
            return main
        grown = torch.matmul(torch.cat(across).t(), torch.cat(rows, 1).transpose(1, 2))  # (N, H, W, cout)
        return main + grown.permute(0, 3, 1, 2).to(main.dtype)


def _shifted(size: int, sources: int, align_corners: bool) -> Tensor:
    """What each tap of a padded 3-tap convolution sees of grown pixels: one back, itself, one on; (3 sources, size)."""
    padded = F.pad(bilinear_matrix(sources, size, align_corners).t(), (1, 1))
    return torch.cat([padded[:, tap : tap + size] for tap in range(3)])
