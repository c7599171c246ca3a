"""Labels from logits at low resolution, without upsampling every class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from segzoo.layers.resize import bilinear_taps, resize, upsample_in_chunks, upsampled_strips

SPARSE_FRACTION = 0.5  # largest fraction of border cells up to which only those are interpolated
FINE_FACTOR = 4  # label pixels per step of the finer grid that is tried when too many cells are border cells
Taps = tuple[Tensor, Tensor, Tensor]  # lower row, upper row, weight of the upper row; see bilinear_taps


@torch.no_grad()
def upsample_argmax(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int = 64) -> Tensor:
    """The arg-max over classes of bilinearly upsampled logits.

    Equals ``resize(logits, size, align_corners).argmax(1)`` up to rounding, with ties going to the lower class. Upsampled pixels
    are convex combinations of four neighbors. If the neighbors agree on their best class, no other class can win between them. If
    the neighbors have two best classes, a third class cannot win either where one of the two beats it at all four corners. So only
    the cells at borders between classes are interpolated, most of them for two classes. If too many cells are border cells, a finer
    grid is tried. If that does not help, or the logits are hardly upsampled, labels are computed strip by strip and class by class.
    On CUDA, a few large operations are faster than many small ones, so chunks of rows are upsampled as a whole. In each case the
    K x H x W tensor is never built. Logits must be finite. Not meant for exported graphs.

    Args:
        logits: (N, K, h, w).
        size: height and width of the labels in pixels.
        align_corners: whether the centers of the corner pixels of logits and labels meet.
        rows: label rows per strip on a CPU, 1 or more. More rows mean fewer, larger operations and more memory.

    Returns:
        (N, H, W) labels, uint8 up to 255 classes, int32 above.
    """
    logits, sources = logits.float(), logits.shape[-2:]
    if logits.is_cuda:
        return _label_in_chunks(logits, size, align_corners)
    factor = min(target // source for target, source in zip(size, sources, strict=True))
    for subdivisions in sorted({1, max(1, factor // FINE_FACTOR)}) if factor >= 2 else ():
        grid = [(source - 1) * subdivisions + 1 for source in sources]
        fine = logits if subdivisions == 1 else resize(logits, grid, align_corners=True)  # the same bilinear patches
        coarse = best_class(fine.unbind(1)).to(label_dtype(logits.shape[1]))
        border = _border_cells(coarse)
        if border.sum() <= SPARSE_FRACTION * border.numel():
            taps = [
                bilinear_taps(source, target, align_corners, subdivisions) for source, target in zip(sources, size, strict=True)
            ]
            (down, top), (across, left) = (_interior(axis) for axis in taps)
            labels = coarse.index_select(2, across[0]).index_select(1, down[0])
            _label_borders(labels, fine, coarse, border.nonzero(), (down, across))
            return _replicate_edges(labels, size, top, left)
    return _label_in_strips(logits, size, align_corners, rows)


def _interior(taps: Taps) -> tuple[Taps, int]:
    """Drop the output pixels beyond the outermost source centers.

    Each of them repeats the nearest interior pixel.

    Returns:
        The taps of the other pixels, and how many were dropped before the first.
    """
    low, high, weight = taps
    first = max(0, int((low + weight <= 0).sum()) - 1)
    end = max(first + 1, len(low) - max(0, int(((low == high) | (weight >= 1) & (high == high[-1])).sum()) - 1))
    return (low[first:end], high[first:end], weight[first:end]), first


def _replicate_edges(labels: Tensor, size: Sequence[int], top: int, left: int) -> Tensor:
    """Pad labels (N, h, w) with copies of their outermost pixels."""
    (height, width), (count, rows, columns) = size, labels.shape
    if (rows, columns) == (height, width):
        return labels
    padded = labels.new_empty(count, height, width)
    padded[:, top : top + rows, left : left + columns] = labels
    padded[:, :, :left], padded[:, :, left + columns :] = padded[:, :, left, None], padded[:, :, left + columns - 1, None]
    padded[:, :top], padded[:, top + rows :] = padded[:, top, None], padded[:, top + rows - 1, None]
    return padded


def label_dtype(num_classes: int) -> torch.dtype:
    """Type of label maps, uint8 up to 255 classes and int32 above."""
    return torch.uint8 if num_classes <= 255 else torch.int32


def best_class(scores: Iterable[Tensor]) -> Tensor:
    """The index of the class with the highest score, as floats.

    The lower class wins ties. Classes are compared one by one, so that their scores stay in cache, and in float arithmetic alone:
    on a CPU, comparing into booleans takes five times as long, writing through a mask twenty-five times, and torch's own arg-max
    over the first axis longer than both. On CUDA, one arg-max compares all classes of a tensor.
    """
    if isinstance(scores, Tensor) and scores.is_cuda:
        return scores.argmax(0).to(scores.dtype)
    classes = iter(scores)
    best = next(classes).clone()
    label, better = torch.zeros_like(best), torch.empty_like(best)
    for index, score in enumerate(classes, 1):
        torch.gt(score, best, out=better)
        torch.maximum(label, better.mul_(index), out=label)
        torch.maximum(best, score, out=best)
    return label


def _border_cells(coarse: Tensor) -> Tensor:
    """True where the corners of a cell differ in class.

    Each pixel stands for the cell to its lower right, between itself and its neighbors to the right, below and diagonally below.
    Cells of the last row and column have no neighbors beyond it.

    Shapes:
        (N, h, w) labels -> (N, h, w) bool
    """
    border = torch.zeros_like(coarse, dtype=torch.bool)
    border[:, :, :-1] = coarse[:, :, :-1] != coarse[:, :, 1:]
    border[:, :-1] |= coarse[:, :-1] != coarse[:, 1:]
    border[:, :-1, :-1] |= coarse[:, :-1, :-1] != coarse[:, 1:, 1:]
    return border


def _label_borders(labels: Tensor, logits: Tensor, coarse: Tensor, cells: Tensor, taps: tuple[Taps, Taps]) -> None:
    """Overwrite the labels of border cells with the arg-max of interpolated logits.

    Args:
        labels: (N, H, W), changed in place.
        logits: (N, K, h, w).
        coarse: (N, h, w), the best class of each pixel of the logits.
        cells: (M, 3), the image, row and column of the upper left corner of each cell.
        taps: taps of the label rows and columns.
    """
    number, top, left = cells.unbind(1)
    height, width = coarse.shape[-2:]
    below, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    corners = torch.stack([(number * height + row) * width + column for row in (top, below) for column in (left, right)])  # (4, M)
    scores = logits.transpose(0, 1).flatten(1)  # (K, pixels)
    winners = coarse.flatten()[corners]
    first, second = winners.amin(0), winners.amax(0)
    of_first, of_second = (scores.flatten().take(of.long() * scores.shape[1] + corners) for of in (first, second))  # (4, M)
    pixels, weights = _pixels_of(cells, labels.shape, (height, width), taps)
    gap = _interpolate(of_first - of_second, weights)  # (rows, columns, M)
    # first where gap >= 0, else second; torch.where takes two to six times as long on a CPU, most for uint8
    result = second ^ ((gap >= 0) * (first ^ second))
    others = _undecided(scores, corners, of_first, of_second).nonzero().flatten()
    corners, weights = corners[:, others], (weights[0][..., others], weights[1][..., others])
    result[..., others] = best_class(_interpolate(_at(score, corners), weights) for score in scores).to(labels.dtype)
    labels.view(-1).scatter_(0, pixels.flatten(), result.flatten())


def _undecided(scores: Tensor, corners: Tensor, *of_pair: Tensor) -> Tensor:
    """True for cells in which a third class can win, (M,).

    It can win if it beats each of the two classes at some corner.

    Args:
        scores: (K, pixels).
        corners: (4, M) pixels.
        of_pair: the scores of the two classes at the corners, (4, M) each.
    """
    lead = torch.full_like(of_pair[0][0], -torch.inf)
    for score in scores:
        at_corners = _at(score, corners)
        torch.maximum(lead, torch.minimum(*((at_corners - other).amax(0) for other in of_pair)), out=lead)
    return lead > 0


def _at(score: Tensor, corners: Tensor) -> Tensor:
    """The scores (4, M) of one class at the corners."""
    return score.index_select(0, corners.flatten()).view(corners.shape)


def _pixels_of(
    cells: Tensor, shape: Sequence[int], sources: tuple[int, int], taps: tuple[Taps, Taps]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The label pixels of each cell.

    Returns:
        Flat indices into the labels (N, H, W), (rows, columns, M), and the weights of the lower and of the right corners.
    """
    number, top, left = cells.unbind(1)
    y, y_weight = _axis_pixels(taps[0], sources[0], top)
    x, x_weight = _axis_pixels(taps[1], sources[1], left)
    return (number * shape[1] + y[:, None]) * shape[2] + x, (y_weight[:, None], x_weight)


def _axis_pixels(taps: Taps, sources: int, cells: Tensor) -> tuple[Tensor, Tensor]:
    """The output pixels of each cell along one axis.

    Cells with fewer pixels than others repeat their last one. Rounding may leave the last cell without any: it then repeats the
    last pixel, where it agrees with the cell before.

    Returns:
        Pixels and their weights of the upper source, (most pixels per cell, M) each.
    """
    low, _, weight = taps
    counts = torch.bincount(low, minlength=sources)
    firsts = counts.cumsum(0) - counts
    steps = torch.arange(int(counts.max()), device=low.device)
    pixels = firsts[cells] + torch.minimum(steps[:, None], counts[cells] - 1)
    return pixels, weight[pixels]


def _interpolate(corners: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    """Interpolate corners (4, M) to (rows, columns, M).

    Cells are the last axis, where memory is contiguous.
    """
    upper, lower = (torch.lerp(corners[i], corners[i + 1], weights[1]) for i in (0, 2))
    return torch.lerp(upper, lower, weights[0])


def _label_in_chunks(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Label the whole image in chunks of rows that suit a GPU."""
    labels = torch.empty((len(logits), *size), dtype=label_dtype(logits.shape[1]), device=logits.device)
    for rows, upsampled in upsample_in_chunks(logits, size, align_corners):
        labels[:, rows] = upsampled.argmax(1)
    return labels


def _label_in_strips(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int) -> Tensor:
    """Label the whole image, ``rows`` label rows at a time."""
    labels = torch.empty((len(logits), *size), dtype=label_dtype(logits.shape[1]), device=logits.device)
    for start, strip in zip(range(0, size[0], rows), upsampled_strips(logits, size, align_corners, rows), strict=True):
        labels[:, start : start + rows] = best_class(strip)
    return labels
