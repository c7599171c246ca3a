"""Bilinear resampling of feature maps, with its matrices and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CPU_ELEMENTS, DEVICE_ELEMENTS = 2**21, 2**24  # of upsampled logits at a time: 8 MiB per copy is fastest on a CPU


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear resampling without antialiasing.

    Shapes:
        (N, C, h, w) -> (N, C, *size)
    """
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def corner_size(size: Sequence[int], multiple: int | None) -> tuple[int, int]:
    """The smallest sides of a multiple plus 1 that hold ``size``.

    Every layer of stride 2 then keeps a pixel in each corner of the image, as long as the multiple is at least the product of the strides.
    None keeps the size.
    """
    height, width = size if multiple is None else ((side + multiple - 2) // multiple * multiple + 1 for side in size)
    return height, width


def enlarge_to_corners(x: Tensor, multiple: int | None) -> Tensor:
    """Enlarge images to ``corner_size``, with corners aligned.

    Images of such a size are returned as they are. Sizes that are symbols of a traced graph are always resized. An exported graph of a fixed
    size resamples one axis after the other by weighted sums, because OpenVINO's bilinear resampling is slow with three channels.
    """
    size = corner_size(x.shape[-2:], multiple)
    is_fixed = all(isinstance(side, int) for side in size)
    if is_fixed and size == tuple(x.shape[-2:]):
        return x
    if not (is_fixed and torch.compiler.is_exporting()):
        return resize(x, size, align_corners=True)
    for axis, side in zip((2, 3), size, strict=True):
        x = x if side == x.shape[axis] else _enlarge_axis(x, axis, side)
    return x


def _enlarge_axis(x: Tensor, axis: int, size: int) -> Tensor:
    """Resample one axis of (N, C, H, W) with corners aligned."""
    sources, is_last = x.shape[axis], axis == 3
    if size == sources + 1:  # shifted copies cost less than selected rows
        weight = 1 - torch.arange(size) / sources
        low, high = (F.pad(x, (*pad, 0, 0) if is_last else (0, 0, *pad)) for pad in ((1, 0), (0, 1)))
    else:
        *rows, weight = bilinear_taps(sources, size, align_corners=True)
        low, high = (x.index_select(axis, row.to(x.device)) for row in rows)
    weight = weight.to(x)
    return low + (high - low) * (weight if is_last else weight[:, None])


def bilinear_matrix(sources: int, size: int, align_corners: bool, device: torch.device | None = None) -> Tensor:
    """The matrix by which ``resize`` resamples one axis.

    Returns:
        (size, sources) float32 on the device, by default the CPU, with rows that sum to 1
    """
    low, high, weight = bilinear_taps(sources, size, align_corners, device=device)
    pixel = torch.arange(sources, device=device)
    return (pixel == low[:, None]) * (1 - weight[:, None]) + (pixel == high[:, None]) * weight[:, None]


def bilinear_taps(
    sources: int, size: int, align_corners: bool, subdivisions: int = 1, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The two source rows that each output row interpolates, and their weights.

    Args:
        sources: source rows.
        size: output rows.
        align_corners: whether the centers of the first and last rows of source and output meet.
        subdivisions: above 1, rows are counted in a finer source, which has that many steps for each step between two source rows.
        device: the device of the result, by default the CPU. A copy from the CPU would wait for all that a GPU has to do.

    Returns:
        The lower row, the upper row and the weight of the upper row, (size,) each, rounded as ``F.interpolate`` rounds
    """
    position = torch.arange(size, dtype=torch.float32, device=device)
    if align_corners:
        position = position * ((sources - 1) / (size - 1) if size > 1 else 0.0)
    else:
        position = ((position + 0.5) * (sources / size) - 0.5).clamp(min=0)
    position, last = position * subdivisions, (sources - 1) * subdivisions
    low = position.long().clamp(max=last)
    return low, (low + 1).clamp(max=last), (position - low).clamp(0, 1)


def realign(x: Tensor, size: Sequence[int], image_size: Sequence[int], source_corners: bool, target_corners: bool) -> Tensor:
    """Resample a map of an image to a grid of another alignment.

    Equals ``resize`` to the image with the map's own alignment, followed by ``resize`` to the new grid, without building the large map.

    Args:
        x: (N, C, h, w).
        size: height and width of the result.
        image_size: height and width of the image.
        source_corners, target_corners: whether the corner pixels of the map, and those of the result, lie on those of the image.

    Shapes:
        (N, C, h, w) -> (N, C, *size)
    """
    rows, columns = (
        (bilinear_matrix(pixels, target, target_corners) @ bilinear_matrix(source, pixels, source_corners)).to(x)
        for source, pixels, target in zip(x.shape[-2:], image_size, size, strict=True)
    )
    with torch.autocast(x.device.type, enabled=False):
        return rows @ x @ columns.T


def upsampled_strips(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int = 64) -> Iterator[Iterator[Tensor]]:
    """Upsample logits bilinearly, strip by strip and class by class.

    Equals ``resize(logits, size, align_corners)`` up to rounding.

    Args:
        logits: (N, K, h, w).
        size: output height and width in pixels.
        align_corners: whether the centers of the corner pixels of input and output meet.
        rows: output rows per strip, 1 or more.

    Yields:
        For each strip, from top to bottom, its K classes, (N, rows, W) each.
    """
    sources, (height, width) = logits.shape[2], size
    low, high, weight = (tap.to(logits.device) for tap in bilinear_taps(sources, height, align_corners))
    firsts, lasts = low.tolist()[::rows], high.tolist()[rows - 1 :: rows] + [sources - 1]
    for strip, (first, last) in enumerate(zip(firsts, lasts, strict=False)):
        here = slice(strip * rows, (strip + 1) * rows)
        wide = resize(logits[:, :, first : last + 1], (last + 1 - first, width), align_corners)  # source rows at full width
        above, below, lower = low[here] - first, high[here] - first, weight[here, None]
        yield (torch.lerp(source[:, above], source[:, below], lower) for source in wide.unbind(1))


def upsample_in_chunks(
    logits: Tensor, size: Sequence[int], align_corners: bool, whole: bool = False
) -> Iterator[tuple[slice, Tensor]]:
    """Upsample logits bilinearly in chunks of rows, or in one if ``whole``.

    Yields:
        The rows of a chunk, and its logits.

    Shapes:
        (N, K, h, w) -> (N, K, r, W)
    """
    images, classes, height, width = logits.shape
    vertical = bilinear_matrix(height, size[0], align_corners, logits.device).to(logits)
    horizontal = bilinear_matrix(width, size[1], align_corners, logits.device).to(logits).T.contiguous()
    elements = CPU_ELEMENTS if logits.device.type == "cpu" else DEVICE_ELEMENTS
    chunk_rows = size[0] if whole else max(1, elements // (images * classes * size[1]))
    for top in range(0, size[0], chunk_rows):
        rows = slice(top, min(top + chunk_rows, size[0]))
        with torch.autocast(logits.device.type, enabled=False):
            upsampled = (vertical[rows] @ logits) @ horizontal
        yield rows, upsampled


@torch.no_grad()
def probability_strips(logits: Tensor, size: Sequence[int], align_corners: bool, rows: int = 64) -> Iterator[Tensor]:
    """Class probabilities of one image at ``size``.

    Args:
        logits: (1, K, h, w).
        size, align_corners, rows: as in ``upsampled_strips``. On CUDA, strips have as many rows as ``DEVICE_ELEMENTS`` allows.

    Yields:
        (K, rows, W) from top to bottom.
    """
    if logits.is_cuda:
        for _, upsampled in upsample_in_chunks(logits.float(), size, align_corners):
            yield upsampled[0].softmax(0)
        return
    for strip in upsampled_strips(logits.float(), size, align_corners, rows):
        yield torch.cat(list(strip)).softmax(0)
