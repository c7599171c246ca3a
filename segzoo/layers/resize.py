"""Bilinear growing of maps, and of logits straight into labels without ever holding the grown logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SPARSE = 0.25  # share of source pixels at borders between classes up to which only those are interpolated


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear resampling of (N, C, h, w) to (N, C, *size), without smoothing when it shrinks."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


@torch.no_grad()
def grow_labels(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int = 256) -> Tensor:
    """The arg-max over classes of bilinearly grown logits, without growing what does not need it.

    Equals ``resize(logits, size, align_corners).argmax(1)`` up to rounding, ties going to the lower class. Between four neighbours
    that agree on their best class no other class can win, since every grown pixel is a convex combination of them; so only the
    cells at borders between classes are interpolated. Where too many cells are of that kind, or hardly anything grows, labels are
    made strip by strip and class by class. Either way the K x H x W map is never built. Logits must be finite; not meant for
    exported graphs.

    Args:
        logits: (N, K, h, w).
        size: height and width of the labels in pixels.
        align_corners: whether the centres of the corner pixels of both maps meet.
        rows: label rows a strip, 1 or more. More of them mean fewer, larger operations and more memory.

    Returns:
        (N, H, W) labels, uint8 up to 255 classes, int32 above.
    """
    logits = logits.float()
    sources = logits.shape[-2:]
    taps = [tuple(part.to(logits.device) for part in _taps(*pair, align_corners)) for pair in zip(sources, size, strict=True)]
    if all(wanted >= 2 * given for wanted, given in zip(size, sources, strict=True)):
        coarse = _coarse(logits)
        mixed = _mixed(coarse)
        if mixed.sum() <= SPARSE * mixed.numel():
            near = coarse.index_select(2, taps[1][0]).index_select(1, taps[0][0])
            return _fill_mixed(near, logits, mixed.nonzero(), taps)
    return _strips(logits, size, align_corners, taps[0], rows)


def _coarse(logits: Tensor) -> Tensor:
    """The best class of each source pixel, (N, h, w)."""
    labels = torch.zeros_like(logits[:, 0], dtype=_label_type(logits.shape[1]))
    best = logits[:, 0].clone()
    for index in range(1, logits.shape[1]):
        labels.masked_fill_(logits[:, index] > best, index)
        torch.maximum(best, logits[:, index], out=best)
    return labels


def _mixed(coarse: Tensor) -> Tensor:
    """Whether the pixel right, below, or both of a source pixel has another class, (N, h, w); the last ones have themselves there."""
    mixed = torch.zeros_like(coarse, dtype=torch.bool)
    mixed[:, :, :-1] = coarse[:, :, :-1] != coarse[:, :, 1:]
    mixed[:, :-1] |= coarse[:, :-1] != coarse[:, 1:]
    mixed[:, :-1, :-1] |= coarse[:, :-1, :-1] != coarse[:, 1:, 1:]
    return mixed


def _fill_mixed(labels: Tensor, logits: Tensor, cells: Tensor, taps: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Overwrites the labels (N, H, W) of the given cells (M, 3: picture, row, column) with those of interpolated logits."""
    number, top, left = cells.unbind(1)
    height, width = logits.shape[-2:]
    y, y_share = _pixels_of(taps[0], height, top)  # (pixels down, M); the cells come last, where memory is contiguous
    x, x_share = _pixels_of(taps[1], width, left)
    below, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    flat = logits.transpose(0, 1).reshape(logits.shape[1], -1)
    corners = [flat.index_select(1, (number * height + row) * width + column) for row in (top, below) for column in (left, right)]
    best = found = None
    for here in zip(*(corner.unbind() for corner in corners), strict=True):  # class by class
        upper, lower = (torch.lerp(a, b, x_share) for a, b in (here[:2], here[2:]))  # (pixels across, M)
        value = torch.lerp(upper, lower, y_share[:, None])  # (pixels down, pixels across, M)
        if best is None or found is None:
            best, found, index = value, torch.zeros_like(value, dtype=labels.dtype), 0
        else:
            index += 1
            found.masked_fill_(value > best, index)
            torch.maximum(best, value, out=best)
    if found is not None:
        places = (number * labels.shape[1] + y[:, None]) * labels.shape[2] + x
        labels.view(-1)[places.flatten()] = found.flatten()
    return labels


def _pixels_of(taps: tuple[Tensor, ...], sources: int, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Grown pixels between each of the given source pixels and its next, and their shares of the next: (most of them, M) both.

    Cells with fewer pixels than others name their last one several times; the last cell, which rounding may leave without one, names
    the last pixel, where it agrees with the cell before.
    """
    low, _, share = taps
    counts = torch.bincount(low, minlength=sources)
    firsts = counts.cumsum(0) - counts
    steps = torch.arange(int(counts.max()), device=low.device)
    pixels = firsts[cells] + torch.minimum(steps[:, None], counts[cells] - 1)
    return pixels, share[pixels]


def _strips(logits: Tensor, size: Sequence[int], align_corners: bool, taps: tuple[Tensor, ...], rows: int) -> Tensor:
    batch, classes, sources, _ = logits.shape
    height, width = size
    low, high, share = taps
    firsts, lasts = low.tolist()[::rows], high.tolist()[rows - 1 :: rows] + [sources - 1]
    labels = torch.zeros((batch, height, width), dtype=_label_type(classes), device=logits.device)
    for strip, (first, last) in enumerate(zip(firsts, lasts, strict=False)):
        here = slice(strip * rows, (strip + 1) * rows)
        wide = resize(logits[:, :, first : last + 1], (last + 1 - first, width), align_corners)  # only source rows, full width
        _best_class(wide, low[here] - first, high[here] - first, share[here, None], labels[:, here])
    return labels


def _label_type(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 255 else torch.int32


def _best_class(wide: Tensor, low: Tensor, high: Tensor, share: Tensor, labels: Tensor) -> None:
    best = None
    for index, source in enumerate(wide.unbind(1)):  # one class at a time: (N, rows, W) stays in cache
        value = torch.lerp(source[:, low], source[:, high], share)
        if best is None:
            best = value
        else:
            labels.masked_fill_(value > best, index)
            torch.maximum(best, value, out=best)


def bilinear_matrix(sources: int, size: int, align_corners: bool) -> Tensor:
    """The matrix by which ``resize`` grows one side, (size, sources) float32; its rows add up to 1."""
    low, high, share = _taps(sources, size, align_corners)
    pixel = torch.arange(sources)
    return (pixel == low[:, None]) * (1 - share[:, None]) + (pixel == high[:, None]) * share[:, None]


def _taps(sources: int, size: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the source below and above each output row, and the share of the one above, rounded as ``F.interpolate`` does."""
    position = torch.arange(size, dtype=torch.float32)
    if align_corners:
        position = position * ((sources - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = ((position + 0.5) * (sources / size) - 0.5).clamp(min=0)
    low = position.long().clamp(max=sources - 1)
    return low, (low + 1).clamp(max=sources - 1), (position - low).clamp(0, 1)
