"""Bilinear resampling of maps, and the matrices and shares behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear resampling of (N, C, h, w) to (N, C, *size), without smoothing when it shrinks."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def bilinear_matrix(sources: int, size: int, align_corners: bool) -> Tensor:
    """The matrix by which ``resize`` grows one side, (size, sources) float32; its rows add up to 1."""
    low, high, share = bilinear_taps(sources, size, align_corners)
    pixel = torch.arange(sources)
    return (pixel == low[:, None]) * (1 - share[:, None]) + (pixel == high[:, None]) * share[:, None]


def bilinear_taps(sources: int, size: int, align_corners: bool, parts: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the source below and above each output row, and the share of the one above, rounded as ``F.interpolate`` does.

    With several ``parts`` the rows are those of a source between whose rows others lie, so that each of its steps became that many.
    """
    position = torch.arange(size, dtype=torch.float32)
    if align_corners:
        position = position * ((sources - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = ((position + 0.5) * (sources / size) - 0.5).clamp(min=0)
    position, last = position * parts, (sources - 1) * parts
    low = position.long().clamp(max=last)
    return low, (low + 1).clamp(max=last), (position - low).clamp(0, 1)
