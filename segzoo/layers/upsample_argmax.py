"""Labels from small logits: the arg-max of what bilinear growing would give, without growing what does not need it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from segzoo.layers.resize import bilinear_taps, resize

SPARSE_FRACTION = 0.5  # share of source pixels at borders between classes up to which only those are interpolated
FINE_FACTOR = 4  # label pixels between the finer pixels that are tried where too many cells are at borders
Taps = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def upsample_argmax(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int = 64) -> Tensor:
    """The arg-max over classes of bilinearly grown logits, without growing what does not need it.

    Equals ``resize(logits, size, align_corners).argmax(1)`` up to rounding, ties going to the lower class. Grown pixels are convex
    combinations of four neighbors. So where the neighbors agree on their best class no other can win between them, and where two
    classes share the four, a third that one of the two beats at every corner cannot win either. Only the cells at borders between
    classes are interpolated, most of them for two classes. Where too many cells are of that kind, finer ones are tried; where that is
    no help, or hardly anything grows, labels are made strip by strip and class by class. Either way the K x H x W map is never built.
    Logits must be finite; not meant for exported graphs.

    Args:
        logits: (N, K, h, w).
        size: height and width of the labels in pixels.
        align_corners: whether the centers of the corner pixels of both maps meet.
        rows: label rows a strip, 1 or more. More of them mean fewer, larger operations and more memory.

    Returns:
        (N, H, W) labels, uint8 up to 255 classes, int32 above.
    """
    logits, sources = logits.float(), logits.shape[-2:]
    factor = min(wanted // given for wanted, given in zip(size, sources, strict=True))
    for parts in sorted({1, max(1, factor // FINE_FACTOR)}) if factor >= 2 else ():
        grid = [(side - 1) * parts + 1 for side in sources]
        fine = logits if parts == 1 else resize(logits, grid, align_corners=True)  # of the same bilinear patches
        coarse = _best_class(fine.unbind(1)).to(_label_type(logits))
        mixed = _mixed(coarse)
        if mixed.sum() <= SPARSE_FRACTION * mixed.numel():
            taps = [bilinear_taps(given, wanted, align_corners, parts) for given, wanted in zip(sources, size, strict=True)]
            (down, top), (across, left) = (_inside(each, logits.device) for each in taps)
            labels = coarse.index_select(2, across[0]).index_select(1, down[0])
            _label_borders(labels, fine, coarse, mixed.nonzero(), (down, across))
            return _extended(labels, size, top, left)
    return _strips(logits, size, align_corners, rows)


def _inside(taps: Taps, device: torch.device) -> tuple[Taps, int]:
    """Taps without the pixels beyond the outermost centers, which repeat the ones there; and how many went before the first."""
    low, high, share = taps
    first = max(0, int((low + share <= 0).sum()) - 1)
    end = max(first + 1, len(low) - max(0, int(((low == high) | (share >= 1) & (high == high[-1])).sum()) - 1))
    return (low[first:end].to(device), high[first:end].to(device), share[first:end].to(device)), first


def _extended(labels: Tensor, size: Sequence[int], top: int, left: int) -> Tensor:
    """Labels (N, h, w) with their outermost rows and columns repeated up to a size."""
    (height, width), (count, rows, columns) = size, labels.shape
    if (rows, columns) == (height, width):
        return labels
    whole = labels.new_empty(count, height, width)
    whole[:, top : top + rows, left : left + columns] = labels
    whole[:, :, :left], whole[:, :, left + columns :] = whole[:, :, left, None], whole[:, :, left + columns - 1, None]
    whole[:, :top], whole[:, top + rows :] = whole[:, top, None], whole[:, top + rows - 1, None]
    return whole


def _label_type(logits: Tensor) -> torch.dtype:
    return torch.uint8 if logits.shape[1] <= 255 else torch.int32


def _best_class(scores: Iterable[Tensor]) -> Tensor:
    """The index of the best of some maps, the first of those that tie, as floats.

    Map by map, so that they stay in cache, and in float arithmetic alone: on processors comparing into booleans takes five times as
    long, writing where a mask says so twenty-five times, and torch's own arg-max over the first axis longer than both.
    """
    maps = iter(scores)
    best = next(maps).clone()
    label, better = torch.zeros_like(best), torch.empty_like(best)
    for index, value in enumerate(maps, 1):
        torch.gt(value, best, out=better)
        torch.maximum(label, better.mul_(index), out=label)
        torch.maximum(best, value, out=best)
    return label


def _mixed(coarse: Tensor) -> Tensor:
    """Whether the pixel right, below, or both of a source pixel has another class, (N, h, w); the last ones have themselves there."""
    mixed = torch.zeros_like(coarse, dtype=torch.bool)
    mixed[:, :, :-1] = coarse[:, :, :-1] != coarse[:, :, 1:]
    mixed[:, :-1] |= coarse[:, :-1] != coarse[:, 1:]
    mixed[:, :-1, :-1] |= coarse[:, :-1, :-1] != coarse[:, 1:, 1:]
    return mixed


def _label_borders(labels: Tensor, logits: Tensor, coarse: Tensor, cells: Tensor, taps: tuple[Taps, Taps]) -> None:
    """Overwrites the labels (N, H, W) of the given cells (M, 3: image, row, column) with those of interpolated logits."""
    number, top, left = cells.unbind(1)
    height, width = coarse.shape[-2:]
    below, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    corners = torch.stack([(number * height + row) * width + column for row in (top, below) for column in (left, right)])  # (4, M)
    scores = logits.transpose(0, 1).flatten(1)  # (K, pixels)
    winners = coarse.flatten()[corners]
    first, second = winners.amin(0), winners.amax(0)
    of_first, of_second = (scores.flatten().take(of.long() * scores.shape[1] + corners) for of in (first, second))  # (4, M)
    places, shares = _pixels_of(cells, labels.shape, (height, width), taps)
    gap = _interpolate(of_first - of_second, shares)  # (rows, columns, M)
    found = second ^ ((gap >= 0) * (first ^ second))  # the first where the gap allows
    others = _undecided(scores, corners, of_first, of_second).nonzero().flatten()
    corners, shares = corners[:, others], (shares[0][..., others], shares[1][..., others])
    found[..., others] = _best_class(_interpolate(_at(row, corners), shares) for row in scores).to(labels.dtype)
    labels.view(-1).scatter_(0, places.flatten(), found.flatten())


def _undecided(scores: Tensor, corners: Tensor, *of_pair: Tensor) -> Tensor:
    """Whether some class is better than each of two at one corner or another, (M,)."""
    lead = torch.full_like(of_pair[0][0], -torch.inf)
    for row in scores:
        here = _at(row, corners)
        torch.maximum(lead, torch.minimum(*((here - one).amax(0) for one in of_pair)), out=lead)
    return lead > 0


def _at(row: Tensor, corners: Tensor) -> Tensor:
    """The scores (4, M) that one class has at the corners."""
    return row.index_select(0, corners.flatten()).view(corners.shape)


def _pixels_of(
    cells: Tensor, shape: Sequence[int], sources: tuple[int, int], taps: tuple[Taps, Taps]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Where the labels (N, H, W) of cells lie in memory, (rows, columns, M), and their shares of the corners below and right."""
    number, top, left = cells.unbind(1)
    y, y_share = _steps(taps[0], sources[0], top)
    x, x_share = _steps(taps[1], sources[1], left)
    return (number * shape[1] + y[:, None]) * shape[2] + x, (y_share[:, None], x_share)


def _steps(taps: Taps, sources: int, cells: Tensor) -> tuple[Tensor, Tensor]:
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


def _interpolate(corners: Tensor, shares: tuple[Tensor, Tensor]) -> Tensor:
    """Values (rows, columns, M) between corners (4, M); the cells come last, where memory is contiguous."""
    upper, lower = (torch.lerp(corners[i], corners[i + 1], shares[1]) for i in (0, 2))
    return torch.lerp(upper, lower, shares[0])


def _strips(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int) -> Tensor:
    """All labels, some rows at a time."""
    sources, (height, width) = logits.shape[2], size
    low, high, share = (part.to(logits.device) for part in bilinear_taps(sources, height, align_corners))
    firsts, lasts = low.tolist()[::rows], high.tolist()[rows - 1 :: rows] + [sources - 1]
    labels = torch.empty((len(logits), height, width), dtype=_label_type(logits), device=logits.device)
    for strip, (first, last) in enumerate(zip(firsts, lasts, strict=False)):
        here = slice(strip * rows, (strip + 1) * rows)
        wide = resize(logits[:, :, first : last + 1], (last + 1 - first, width), align_corners)  # only source rows, full width
        above, below, lower = low[here] - first, high[here] - first, share[here, None]
        labels[:, here] = _best_class(torch.lerp(source[:, above], source[:, below], lower) for source in wide.unbind(1))
    return labels
