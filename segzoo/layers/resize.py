"""Bilinear resampling of feature maps, with its matrices and weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear resampling without antialiasing.

    Shapes:
        (N, C, h, w) -> (N, C, *size)
    """
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def bilinear_matrix(sources: int, size: int, align_corners: bool) -> Tensor:
    """The matrix by which ``resize`` resamples one axis.

    Returns:
        (size, sources) float32, with rows that sum to 1
    """
    low, high, weight = bilinear_taps(sources, size, align_corners)
    pixel = torch.arange(sources)
    return (pixel == low[:, None]) * (1 - weight[:, None]) + (pixel == high[:, None]) * weight[:, None]


def bilinear_taps(sources: int, size: int, align_corners: bool, subdivisions: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """The two source rows that each output row interpolates, and their weights.

    Args:
        sources: source rows.
        size: output rows.
        align_corners: whether the centers of the first and last rows of source and output meet.
        subdivisions: above 1, rows are counted in a finer source, which has that many steps for each step between two source rows.

    Returns:
        The lower row, the upper row and the weight of the upper row, (size,) each, rounded as ``F.interpolate`` rounds
    """
    position = torch.arange(size, dtype=torch.float32)
    if align_corners:
        position = position * ((sources - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = ((position + 0.5) * (sources / size) - 0.5).clamp(min=0)
    position, last = position * subdivisions, (sources - 1) * subdivisions
    low = position.long().clamp(max=last)
    return low, (low + 1).clamp(max=last), (position - low).clamp(0, 1)
