"""Labels from small logits: the arg-max of what bilinear growing would give, without growing what does not need it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segzoo.layers.resize import bilinear_taps, resize

SPARSE = 0.5  # share of source pixels at borders between classes up to which only those are interpolated
Taps = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def grow_labels(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int = 64) -> Tensor:
    """The arg-max over classes of bilinearly grown logits, without growing what does not need it.

    Equals ``resize(logits, size, align_corners).argmax(1)`` up to rounding, ties going to the lower class. Grown pixels are convex
    combinations of four neighbours. So where the neighbours agree on their best class no other can win between them, and where two
    classes share the four, a third that one of the two beats at every corner cannot win either. Only the cells at borders between
    classes are interpolated, most of them for two classes. Where too many cells are of that kind, or hardly anything grows, labels
    are made strip by strip and class by class. Either way the K x H x W map is never built. Logits must be finite; not meant for
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
    down, across = (
        tuple(part.to(logits.device) for part in bilinear_taps(*pair, align_corners)) for pair in zip(sources, size, strict=True)
    )
    if all(wanted >= 2 * given for wanted, given in zip(size, sources, strict=True)):
        coarse = logits.max(1).indices.to(_label_type(logits))  # much faster than argmax, and of a tie the first as well
        mixed = _mixed(coarse)
        if mixed.sum() <= SPARSE * mixed.numel():
            labels = coarse.index_select(2, across[0]).index_select(1, down[0])
            _label_borders(labels, logits, coarse, mixed.nonzero(), (down, across))
            return labels
    return _strips(logits, size, align_corners, down, rows)


def _label_type(logits: Tensor) -> torch.dtype:
    return torch.uint8 if logits.shape[1] <= 255 else torch.int32


def _mixed(coarse: Tensor) -> Tensor:
    """Whether the pixel right, below, or both of a source pixel has another class, (N, h, w); the last ones have themselves there."""
    mixed = torch.zeros_like(coarse, dtype=torch.bool)
    mixed[:, :, :-1] = coarse[:, :, :-1] != coarse[:, :, 1:]
    mixed[:, :-1] |= coarse[:, :-1] != coarse[:, 1:]
    mixed[:, :-1, :-1] |= coarse[:, :-1, :-1] != coarse[:, 1:, 1:]
    return mixed


def _label_borders(labels: Tensor, logits: Tensor, coarse: Tensor, cells: Tensor, taps: tuple[Taps, Taps]) -> None:
    """Overwrites the labels (N, H, W) of the given cells (M, 3: picture, row, column) with those of interpolated logits."""
    number, top, left = cells.unbind(1)
    height, width = coarse.shape[-2:]
    below, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    corners = torch.stack([(number * height + row) * width + column for row in (top, below) for column in (left, right)])
    scores = logits.transpose(0, 1).flatten(1).index_select(1, corners.flatten()).unflatten(1, corners.shape)  # (K, 4, M)
    winners = coarse.flatten()[corners]
    pair = torch.stack((winners.amin(0), winners.amax(0)))  # (2, M)
    of_pair = scores.gather(0, pair.long()[:, None].expand(-1, 4, -1))  # (2, 4, M)
    open_to_others = _any_corner(scores > of_pair[0]).logical_and_(_any_corner(scores > of_pair[1])).any(0)
    for chosen, others in ((~open_to_others, False), (open_to_others, True)):
        pick = chosen.nonzero().flatten()
        places, shares = _pixels_of(cells[pick], labels.shape, (height, width), taps)
        if others:
            found = _best(scores[:, :, pick], shares, labels.dtype)
        else:
            first, second = pair[:, pick]
            gap = of_pair[0, :, pick] - of_pair[1, :, pick]
            found = torch.where(_interpolate(gap, shares) >= 0, first, second)
        labels.view(-1)[places.flatten()] = found.flatten()


def _any_corner(found: Tensor) -> Tensor:
    """Whether it was found at one of the corners, (K, 4, M) -> (K, M); ``any(1)`` would go through memory byte by byte."""
    return found[:, 0] | found[:, 1] | found[:, 2] | found[:, 3]


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


def _best(scores: Tensor, shares: tuple[Tensor, Tensor], label_type: torch.dtype) -> Tensor:
    """The best of all classes, (rows, columns, M), of the corners' scores (K, 4, M)."""
    best = _interpolate(scores[0], shares)
    found = torch.zeros_like(best, dtype=label_type)
    for index in range(1, len(scores)):
        _keep_better(best, found, _interpolate(scores[index], shares), index)
    return found


def _keep_better(best: Tensor, labels: Tensor, value: Tensor, index: int) -> None:
    """Lets a class have the pixels at which it is better than all before."""
    labels.masked_fill_(value > best, index)
    torch.maximum(best, value, out=best)


def _strips(logits: Tensor, size: Sequence[int], align_corners: bool, taps: Taps, rows: int) -> Tensor:
    """All labels, some rows at a time."""
    sources, (height, width) = logits.shape[2], size
    low, high, share = taps
    firsts, lasts = low.tolist()[::rows], high.tolist()[rows - 1 :: rows] + [sources - 1]
    labels = torch.zeros((len(logits), height, width), dtype=_label_type(logits), device=logits.device)
    for strip, (first, last) in enumerate(zip(firsts, lasts, strict=False)):
        here = slice(strip * rows, (strip + 1) * rows)
        wide = resize(logits[:, :, first : last + 1], (last + 1 - first, width), align_corners)  # only source rows, full width
        _best_of_strip(wide, low[here] - first, high[here] - first, share[here, None], labels[:, here])
    return labels


def _best_of_strip(wide: Tensor, low: Tensor, high: Tensor, share: Tensor, labels: Tensor) -> None:
    best = None
    for index, source in enumerate(wide.unbind(1)):  # one class at a time: (N, rows, W) stays in cache
        value = torch.lerp(source[:, low], source[:, high], share)
        if best is None:
            best = value
        else:
            _keep_better(best, labels, value, index)
