"""Class scores of an image, computed strip by strip of its rows.

Scores at the size of the image take K x H x W values. Only a strip of them exists at a time, computed from the network's logits, which
are much smaller.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segzoo.layers.resize import bilinear_taps, resize

STRIP_SCORES = 2**21  # scores per strip: 8 MiB in fp32, which a CPU's cache can hold
DEVICE_STRIP_SCORES = 2**24  # on CUDA, where few large operations are faster
Rows = Callable[[int, int], Tensor]  # first and end row -> their scores (K, end - first, W)


def stored(scores: Tensor) -> Rows:
    """Return rows of scores (K, H, W) in memory."""
    return lambda first, end: scores[:, first:end]


def resized(rows: Rows, sources: tuple[int, int], size: tuple[int, int], align_corners: bool) -> Rows:
    """Resample scores bilinearly.

    Args:
        rows: the scores.
        sources: their height and width.
        size: height and width of the result.
        align_corners: whether the centers of the corner pixels of scores and result meet.
    """
    if sources == size:
        return rows
    low, high, weight = bilinear_taps(sources[0], size[0], align_corners)
    taps = {low.device: (low, high, weight)}  # by the device of the scores, which their first strip tells

    def strip(first: int, end: int) -> Tensor:
        top, bottom = int(low[first]), int(high[end - 1]) + 1
        wide = resize(rows(top, bottom)[None], (bottom - top, size[1]), align_corners)[0]
        if wide.device not in taps:
            taps[wide.device] = bilinear_taps(sources[0], size[0], align_corners, device=wide.device)
        above, below, lower = (tap[first:end] - start for tap, start in zip(taps[wide.device], (top, top, 0), strict=True))
        return wide[:, above].lerp_(wide[:, below], lower[:, None])  # in place, as strips of wide images are large

    return strip


def softmax(rows: Rows) -> Rows:
    """Convert logits to class probabilities."""
    return lambda first, end: rows(first, end).softmax(0)


def cropped(rows: Rows, width: int) -> Rows:
    """Cut scores at the right."""
    return lambda first, end: rows(first, end)[..., :width]


def flipped(rows: Rows) -> Rows:
    """Mirror scores horizontally."""
    return lambda first, end: rows(first, end).flip(-1)


def summed(parts: list[Rows]) -> Rows:
    """Add scores of one size."""

    def strip(first: int, end: int) -> Tensor:
        total = parts[0](first, end)
        for part in parts[1:]:
            total = total + part(first, end)
        return total

    return strip


def assembled(rows: Rows, num_classes: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Compute all rows.

    Shapes:
        -> (num_classes, *size)
    """
    scores = torch.empty(num_classes, *size, device=device)
    for first, end in strips(num_classes, size, device):
        scores[:, first:end] = rows(first, end)
    return scores


def strips(num_classes: int, size: tuple[int, int], device: torch.device) -> list[tuple[int, int]]:
    """List the first and end rows of strips that suit a device."""
    height, width = size
    scores = DEVICE_STRIP_SCORES if device.type == "cuda" else STRIP_SCORES
    step = max(1, scores // (num_classes * width))
    return [(first, min(first + step, height)) for first in range(0, height, step)]
