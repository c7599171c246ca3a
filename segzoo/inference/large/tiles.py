"""Logits of a large image, stitched from those of overlapping tiles.

Tiles start where the network's feature maps have a pixel, so their logits lie where those of the whole image would. Each logit is taken
from a tile in which it is at least a margin away from the tile's border. If the receptive field ends within the margin, all logits equal
those of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segzoo.inference.passes.score_rows import Rows
from segzoo.registry import ConfigError
from segzoo.resources import available_memory

ALIGNMENT = 32  # tiles start at multiples of the largest stride
PROBE = 4096  # pixels; a network that sees farther counts as one that sees the whole image
PROBE_WIDTH = 64
UNALIGNED = 12  # pixels by which an image is shorter than a multiple of the alignment
TOLERANCE = 0.02  # of the largest logit, for the rounding of low precisions
GLOBAL_MARGIN = 128  # pixels, for networks that see the whole tile
BYTES_PER_PIXEL = 2000  # of a tile, in the largest networks
MIN_TILE, MAX_TILE = 512, 2048
LogitsOf = Callable[[Tensor], Tensor]  # normalized images (N, 3, H, W) -> logits (N, K, h, w)


@dataclass(frozen=True)
class Reach:
    """Extent of a network's receptive field.

    Attributes:
        margin: distance in pixels from an image's border at which the border has no influence, or ``GLOBAL_MARGIN``.
        by_size: logits depend on the size of the image, as with pyramid pooling, or nothing is known.
        stride: pixels per logit.
        corner: pixels by which the sides of a tile exceed a multiple of ``ALIGNMENT``: 1 if the network aligns corners, else 0.
        is_known: the margin is measured.
    """

    margin: int
    by_size: bool
    stride: int
    corner: int = 0
    is_known: bool = True


@torch.no_grad()
def measure_reach(logits_of: LogitsOf, device: torch.device, spreads_nan: bool = True, corner: int = 0) -> Reach:
    """Measure how far the border of an image influences the logits.

    The first or last rows of a narrow image are NaN, which spreads to every logit that depends on it, whatever the weights are.

    Args:
        logits_of: runs the network.
        device: its device.
        spreads_nan: whether all layers do so. Otherwise nothing is known.
        corner: as in ``Reach``.
    """
    probe = torch.zeros(1, 3, PROBE + corner, PROBE_WIDTH + corner, device=device)
    reached, is_known, stride = 0, False, 1
    for block in (slice(0, ALIGNMENT), slice(PROBE + corner - ALIGNMENT, PROBE + corner)):
        image = probe.clone()
        image[:, :, block] = torch.nan
        is_nan = logits_of(image)[0].isnan().any(0).any(1)
        stride = 2 ** round(math.log2(PROBE / len(is_nan)))
        rows = is_nan.nonzero().flatten() * stride
        if len(rows) == len(is_nan):
            return Reach(GLOBAL_MARGIN, True, stride, corner)
        if len(rows):
            is_known = spreads_nan
            reached = max(reached, int(rows[-1]) + stride - block.stop if block.start == 0 else block.start - int(rows[0]))
    if not is_known:
        return Reach(GLOBAL_MARGIN, True, stride, corner, is_known=False)
    return Reach(_aligned(reached), _depends_on_size(logits_of, reached, stride, device, corner), stride, corner)


def _depends_on_size(logits_of: LogitsOf, reached: int, stride: int, device: torch.device, corner: int) -> bool:
    """Compare the logits of an image with those of its upper half."""
    height = PROBE - ALIGNMENT + corner if corner else PROBE - UNALIGNED
    image = torch.randn(1, 3, height, PROBE_WIDTH + corner, generator=torch.Generator().manual_seed(0)).to(device)
    rows = (PROBE // 2 - reached) // stride  # which the lower half does not influence
    if rows <= 0:
        return True
    whole, half = (logits_of(x)[:, :, :rows] for x in (image, image[:, :, : PROBE // 2 + corner]))
    return bool((whole - half).abs().max() > TOLERANCE * whole.abs().max())


def choose_tile(reach: Reach, device: torch.device, requested: int | None = None) -> int:
    """Choose the height and width of tiles.

    Args:
        reach: the receptive field.
        device: the device that runs it.
        requested: the size to use, rounded up to the alignment. None takes what a quarter of the available memory holds.

    Raises:
        ConfigError: ``requested`` is too small for two margins.
    """
    smallest = 2 * reach.margin + 2 * ALIGNMENT
    if requested is not None:
        if requested < smallest:
            raise ConfigError(
                f"tile={requested}: the receptive field of the network extends {reach.margin} pixels, and that margin is dropped on both sides. Set at least "
                f"tile={smallest}."
            )
        return _aligned(requested)
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    side = MAX_TILE if memory is None else math.isqrt(memory // 4 // BYTES_PER_PIXEL)
    return max(_aligned(min(max(side, MIN_TILE), MAX_TILE)), _aligned(4 * reach.margin))


def tile_starts(size: int, tile: int, margin: int) -> list[int]:
    """First pixels of the tiles along one axis.

    All are multiples of ``ALIGNMENT``, as ``tile`` and ``margin`` have to be. Tiles overlap by at least two margins, and the last one ends
    at the image's border.
    """
    last = _aligned(max(0, size - tile))
    return [*range(0, last, tile - 2 * margin), last]


class TiledLogits:
    """Logits of an image, computed tile by tile.

    Called with a first and an end row, it returns (K, rows, w). The logits of about two rows of tiles exist at a time.

    Args:
        logits_of: runs the network.
        image: rows of the normalized image.
        size: height and width of the image. If the network aligns corners, they are sides that it does not enlarge.
        tile: height and width of tiles without ``reach.corner``, a multiple of ``ALIGNMENT``.
        reach: the receptive field.
        device: the device of the image.

    Attributes:
        logits_size: height and width of all logits.
        count: number of tiles.
    """

    def __init__(self, logits_of: LogitsOf, image: Rows, size: tuple[int, int], tile: int, reach: Reach, device: torch.device):
        self.logits_of, self.image, self.size, self.tile, self.reach = logits_of, image, size, tile, reach
        self.tops, self.lefts = (tile_starts(side - reach.corner, tile, reach.margin) for side in size)
        height, width = (
            starts[-1] // reach.stride + _num_logits(logits_of, side - starts[-1], axis, device)
            for axis, (starts, side) in enumerate(zip((self.tops, self.lefts), size, strict=True))
        )
        self.logits_size = height, width
        self.count = len(self.tops) * len(self.lefts)
        self._row_bounds, self._column_bounds = (
            [0, *((start + reach.margin) // reach.stride for start in starts[1:]), end]
            for starts, end in zip((self.tops, self.lefts), self.logits_size, strict=True)
        )
        self._bands: list[tuple[int, Tensor]] = []  # first row and logits of the rows of tiles that are done
        self._next = 0

    def __call__(self, first: int, end: int) -> Tensor:
        """Return rows of logits.

        They may not lie above those of earlier calls.
        """
        while self._next < len(self.tops) and self._row_bounds[self._next] < end:
            self._bands.append((self._row_bounds[self._next], self._band(self._next)))
            self._next += 1
        self._bands = [(top, band) for top, band in self._bands if top + band.shape[1] > first]
        parts = [band[:, max(0, first - top) : max(0, end - top)] for top, band in self._bands]
        return torch.cat(parts, 1)

    def _band(self, number: int) -> Tensor:
        """Compute the logits of one row of tiles."""
        top = self.tops[number]
        extent = self.tile + self.reach.corner
        strip = self.image(top, min(top + extent, self.size[0]))
        rows = [bound - top // self.reach.stride for bound in self._row_bounds[number : number + 2]]
        parts = []
        for left, begin, end in zip(self.lefts, self._column_bounds[:-1], self._column_bounds[1:], strict=True):
            logits = self.logits_of(strip[None, ..., left : left + extent])[0]
            offset = left // self.reach.stride
            parts.append(logits[:, rows[0] : rows[1], begin - offset : end - offset])
        return torch.cat(parts, 2)


def _num_logits(logits_of: LogitsOf, pixels: int, axis: int, device: torch.device) -> int:
    """Number of logits along one axis of an image."""
    size = (pixels, PROBE_WIDTH) if axis == 0 else (PROBE_WIDTH, pixels)
    return logits_of(torch.zeros(1, 3, *size, device=device)).shape[2 + axis]


def _aligned(pixels: int) -> int:
    """The smallest multiple of ``ALIGNMENT`` that is at least ``pixels``."""
    return math.ceil(pixels / ALIGNMENT) * ALIGNMENT
