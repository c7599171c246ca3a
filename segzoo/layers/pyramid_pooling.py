"""Pyramid pooling of PSPNet and ICNet: a map averaged, or its maximum taken, over grids of bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segzoo.layers.conv import autocast_disabled
from segzoo.layers.resize import resize


class PyramidPooling(nn.Module):
    """Pools a map to b x b bins for each b: equal to ``F.adaptive_avg_pool2d`` or ``F.adaptive_max_pool2d`` at every size.

    All averages are one matrix product with the pixels, maxima are taken over gathered pixels, so that the size of the map stays a
    variable in exported graphs; PyTorch's own adaptive pooling exports with the bins of the traced size. It also keeps the backward
    pass deterministic on CUDA. Computed in fp32, outside autocast. Bins may outnumber the pixels of the map; they then overlap.

    Args:
        bins: bins along each side, one pooled map each; 1 or more.
        pool: ``avg`` or ``max``.

    Shapes:
        (N, C, H, W) -> a list of (N, C, b, b), in the order of ``bins`` and the type of the input
    """

    def __init__(self, bins: Sequence[int], pool: Literal["avg", "max"] = "avg"):
        super().__init__()
        self.bins, self.pool = tuple(bins), pool

    def forward(self, x: Tensor) -> list[Tensor]:
        with autocast_disabled(x):
            wide = x.float()
            pooled = average_bins(wide, self.bins) if self.pool == "avg" else [max_bins(wide, bins) for bins in self.bins]
            return [_like(grid, x) for grid in pooled]

    def extra_repr(self) -> str:
        return f"bins={self.bins}, pool={self.pool}"


def _like(grid: Tensor, x: Tensor) -> Tensor:
    """A pooled map in the number format and the memory order of the map it comes from, so that what it grows to can be added fast."""
    if torch.compiler.is_exporting():  # a graph has no memory order, and asking would put conditions on the size into it
        return grid.to(x.dtype)
    last = x.is_contiguous(memory_format=torch.channels_last)
    return grid.to(x.dtype).clone(memory_format=torch.channels_last if last else torch.contiguous_format)


def upsample_pooled(grid: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """A pooled map grown to a size. One of a single bin is the same everywhere, and leaves the memory order of what it meets alone."""
    if grid.shape[-2:] == (1, 1):
        return grid.expand(-1, -1, *size)
    return resize(grid, size, align_corners)


def bin_edges(size: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First pixel of each bin and the one after its last, (bins,) each: floor(i size / bins), ceil((i + 1) size / bins)."""
    index = torch.arange(bins, device=device)
    return index * size // bins, ((index + 1) * size + bins - 1) // bins


def bin_matrix(size: int, bins: int, device: torch.device) -> Tensor:
    """The matrix that averages ``size`` pixels over each bin, (bins, size) float32; its rows add up to 1."""
    first, end = bin_edges(size, bins, device)
    pixel = torch.arange(size, device=device)
    inside = (pixel >= first[:, None]) & (pixel < end[:, None])
    return inside / (end - first)[:, None]


def bin_pixels(size: int, bins: int, device: torch.device) -> Tensor:
    """The pixels of each bin, (bins, longest); the last one fills up bins that are shorter."""
    first, end = bin_edges(size, bins, device)
    longest = (size + bins - 1) // bins + 1
    return torch.minimum(first[:, None] + torch.arange(longest, device=device), end[:, None] - 1)


def average_bins(x: Tensor, bins: Sequence[int]) -> list[Tensor]:
    """Means of (N, C, H, W) float32 over b x b bins for each b; a channels-last map is read in place."""
    if not bins:
        return []
    height, width = x.shape[-2:]
    grids = []
    for side in bins:
        rows, columns = bin_matrix(height, side, x.device), bin_matrix(width, side, x.device)
        grids.append((rows[:, None, :, None] * columns[:, None, :]).reshape(side * side, height * width))
    means = torch.matmul(torch.cat(grids), x.flatten(2).transpose(1, 2)).transpose(1, 2)  # (N, C, bins of all grids)
    parts = means.split([side * side for side in bins], dim=2)
    return [part.unflatten(2, (side, side)) for part, side in zip(parts, bins, strict=True)]


def max_bins(x: Tensor, bins: int) -> Tensor:
    """Maximum of (N, C, H, W) over bins x bins. Pixels that tie for it share the gradient."""
    rows, columns = (bin_pixels(size, bins, x.device) for size in x.shape[-2:])
    down = x[:, :, rows].amax(3)  # (N, C, bins, longest, W) -> (N, C, bins, W)
    return down[..., columns].amax(-1)
