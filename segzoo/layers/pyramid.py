"""Pyramid pooling of PSPNet and ICNet: a map averaged, or its maximum taken, over grids of bins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from segzoo.layers.conv import outside_autocast


class PyramidPool(nn.Module):
    """Pools a map to b x b bins for each b: equal to ``F.adaptive_avg_pool2d`` or ``F.adaptive_max_pool2d`` at every size.

    Averages are two small matrix products, maxima are taken over gathered pixels, so that the size of the map stays a variable in
    exported graphs; PyTorch's own adaptive pooling exports with the bins of the traced size. It also keeps the backward pass
    deterministic on CUDA. Computed in fp32, outside autocast. Bins may outnumber the pixels of the map; they then overlap.

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
        pool = average_bins if self.pool == "avg" else max_bins
        with outside_autocast(x):
            wide = x.to(torch.float32, memory_format=torch.contiguous_format)  # the products crawl over channels-last maps
            return [pool(wide, bins).to(x.dtype) for bins in self.bins]

    def extra_repr(self) -> str:
        return f"bins={self.bins}, pool={self.pool}"


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


def average_bins(x: Tensor, bins: int) -> Tensor:
    """Mean of (N, C, H, W) float32 over bins x bins."""
    batch, channels, height, width = x.shape
    maps = batch * channels
    rows = bin_matrix(height, bins, x.device).expand(maps, bins, height)
    columns = bin_matrix(width, bins, x.device).T.expand(maps, width, bins)
    return torch.bmm(rows, torch.bmm(x.flatten(0, 1), columns)).unflatten(0, (batch, channels))


def max_bins(x: Tensor, bins: int) -> Tensor:
    """Maximum of (N, C, H, W) over bins x bins. Pixels that tie for it share the gradient."""
    rows, columns = (bin_pixels(size, bins, x.device) for size in x.shape[-2:])
    down = x[:, :, rows].amax(3)  # (N, C, bins, longest, W) -> (N, C, bins, W)
    return down[..., columns].amax(-1)
