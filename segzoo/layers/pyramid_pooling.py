"""Pyramid pooling of PSPNet and ICNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segzoo.layers.conv import autocast_disabled
from segzoo.layers.resize import resize


class PyramidPooling(nn.Module):
    """Adaptive average or max pooling to several grids.

    Equal to ``F.adaptive_avg_pool2d`` or ``F.adaptive_max_pool2d`` for each grid size b x b at every input size. All averages are
    one matrix product with the pixels, and maxima are taken over gathered pixels, so exported graphs keep the input size dynamic.
    PyTorch's adaptive pooling would export the bins of the traced size. The backward pass is deterministic on CUDA. Computed in
    fp32, outside autocast. A grid may have more bins than the feature map has pixels. The bins then overlap.

    Args:
        bins: grid sizes, 1 or more, one pooled map for each.
        pool: ``avg`` or ``max``.

    Shapes:
        (N, C, H, W) -> a list of (N, C, b, b), in the order of ``bins`` and of the input's type
    """

    def __init__(self, bins: Sequence[int], pool: Literal["avg", "max"] = "avg"):
        super().__init__()
        self.bins, self.pool = tuple(bins), pool

    def forward(self, x: Tensor) -> list[Tensor]:
        with autocast_disabled(x):
            x32 = x.float()
            pooled = average_bins(x32, self.bins) if self.pool == "avg" else [max_bins(x32, bins) for bins in self.bins]
            return [_match_format(grid, x) for grid in pooled]

    def extra_repr(self) -> str:
        return f"bins={self.bins}, pool={self.pool}"


def _match_format(grid: Tensor, x: Tensor) -> Tensor:
    """Convert a pooled map to its source's dtype and memory format.

    Adding its upsampled version to the source is then fast.
    """
    if torch.compiler.is_exporting():  # a graph has no memory format, and asking for it would add guards on the size
        return grid.to(x.dtype)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return grid.to(x.dtype).clone(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def upsample_pooled(grid: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Upsample a pooled map to a size.

    A 1x1 map has the same value everywhere, so it is expanded without copying. It then takes on the memory format of the tensor
    that it is added to.
    """
    if grid.shape[-2:] == (1, 1):
        return grid.expand(-1, -1, *size)
    return resize(grid, size, align_corners)


def bin_edges(size: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The first pixel of each bin and the one after its last.

    Returns:
        floor(i size / bins) and ceil((i + 1) size / bins), (bins,) each
    """
    index = torch.arange(bins, device=device)
    return index * size // bins, ((index + 1) * size + bins - 1) // bins


def bin_matrix(size: int, bins: int, device: torch.device) -> Tensor:
    """The matrix that averages ``size`` pixels over each bin.

    Returns:
        (bins, size) float32, with rows that sum to 1
    """
    first, end = bin_edges(size, bins, device)
    pixel = torch.arange(size, device=device)
    inside = (pixel >= first[:, None]) & (pixel < end[:, None])
    return inside.to(torch.float32) / (end - first)[:, None]


def bin_pixels(size: int, bins: int, device: torch.device) -> Tensor:
    """The pixels of each bin.

    Returns:
        (bins, length of the longest) indices, where shorter bins repeat their last pixel
    """
    first, end = bin_edges(size, bins, device)
    longest = (size + bins - 1) // bins + 1
    return torch.minimum(first[:, None] + torch.arange(longest, device=device), end[:, None] - 1)


def average_bins(x: Tensor, bins: Sequence[int]) -> list[Tensor]:
    """Average pooling to b x b bins for each b in ``bins``.

    A channels-last tensor is read without a copy.

    Shapes:
        (N, C, H, W) float32 -> a list of (N, C, b, b)
    """
    if not bins:
        return []
    height, width = x.shape[-2:]
    grids = []
    for side in bins:
        rows, columns = bin_matrix(height, side, x.device), bin_matrix(width, side, x.device)
        grids.append((rows[:, None, :, None] * columns[:, None, :]).reshape(side * side, height * width))
    means = torch.matmul(torch.cat(grids), x.flatten(2).transpose(1, 2)).transpose(1, 2)  # (N, C, bins of all grids)
    pooled = means.split([side * side for side in bins], dim=2)
    return [grid.unflatten(2, (side, side)) for grid, side in zip(pooled, bins, strict=True)]


def max_bins(x: Tensor, bins: int) -> Tensor:
    """Max pooling to ``bins`` x ``bins`` bins.

    Tied pixels share the gradient.

    Shapes:
        (N, C, H, W) -> (N, C, bins, bins)
    """
    rows, columns = (bin_pixels(size, bins, x.device) for size in x.shape[-2:])
    down = x[:, :, rows].amax(3)  # (N, C, bins, longest, W) -> (N, C, bins, W)
    return down[..., columns].amax(-1)
