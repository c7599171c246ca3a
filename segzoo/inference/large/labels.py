"""Labels of an image in strips of rows, while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from segzoo.device import Precision
from segzoo.inference.exported.network import ExportedNetwork
from segzoo.inference.large.source_rows import SourceRows
from segzoo.inference.large.tiles import ALIGNMENT, Reach, TiledLogits, choose_tile, measure_reach
from segzoo.inference.passes.forward_pass import ForwardPass, scaled_size
from segzoo.inference.passes.logit_store import make_store
from segzoo.inference.passes.score_rows import Rows, flipped, resized, softmax, strips, summed
from segzoo.inference.passes.windows import window_starts
from segzoo.inference.protocol import InferenceProtocol
from segzoo.layers.resize import corner_size
from segzoo.layers.upsample_argmax import best_class, label_dtype
from segzoo.messages import format_override
from segzoo.progress import with_progress
from segzoo.registry import ConfigError

RESAMPLED = 4  # further rows of the image or of logits that a resampled row may need


@dataclass(frozen=True)
class Tiling:
    """Tiles of images that are labeled as a whole.

    Attributes:
        tile: height and width of tiles in pixels.
        reach: the receptive field.
    """

    tile: int
    reach: Reach

    def describe(self) -> str:
        """Say what labels equal those of the whole image."""
        tiles = f"labeled in tiles of {self.tile} pixels with a margin of {self.reach.margin}"
        if not self.reach.is_known:
            return (
                f"{tiles}. How far the network sees is not known, so labels near the borders of tiles may differ from those of the whole "
                "image. With protocol=slide they are those of the same windows in memory."
            )
        if self.reach.by_size:
            return (
                f"{tiles}. The network's output depends on the size of its input, so labels are not those of the whole image. With "
                "protocol=slide they are those of the same windows in memory."
            )
        return f"{tiles}, as far as its receptive field extends, so labels are those of the whole image"


@dataclass(frozen=True)
class CountedPass(ForwardPass):
    """A pass that reports each run of the network.

    Attributes:
        advance: called after each run.
    """

    advance: Callable[[], None] = field(kw_only=True)

    def logits(self, x: Tensor, unscaled: tuple[int, int]) -> Tensor:
        logits = super().logits(x, unscaled)
        self.advance()
        return logits


class LargeImageLabeler:
    """Labels images that are too large to hold.

    With sliding windows, labels equal those of ``segment_image``. Whole images are labeled in tiles, see ``Tiling``.

    Args:
        model: the network.
        protocol: the inference protocol.
        precision: precision of the layers.
        tile: size of tiles in pixels. None chooses it by the available memory.

    Raises:
        ConfigError: the protocol needs the whole image, or ``tile`` is too small.
    """

    def __init__(self, model: nn.Module, protocol: InferenceProtocol, precision: Precision, tile: int | None = None):
        _check(protocol)
        if protocol.single:
            protocol = replace(protocol, average="logits")  # which have the same best class as probabilities
        self.model, self.protocol, self.precision = model, protocol, precision
        self.num_classes = int(model.num_classes)  # type: ignore[arg-type]
        self.multiple: int | None = getattr(model, "corner_multiple", None)
        self.tiling: Tiling | None = None
        if not protocol.crop:
            if isinstance(model, ExportedNetwork) and (hw := model.metadata["hw"]):
                raise ConfigError(
                    f"the exported file takes images of {hw[0]}x{hw[1]} pixels (H x W) only, and larger ones are labeled in tiles. Set "
                    f"protocol=slide {format_override('protocol.crop', list(hw))}, or export it without hw."
                )
            network = ForwardPass(model, protocol, precision, (ALIGNMENT, ALIGNMENT), 1.0)
            known = not isinstance(model, ExportedNetwork)  # whose layers may hide a NaN
            reach = measure_reach(
                partial(network.logits, unscaled=network.size), precision.device, known, int(self.multiple is not None)
            )
            self.tiling = Tiling(choose_tile(reach, precision.device, tile), reach)

    @torch.no_grad()
    def strips(
        self, source: SourceRows, name: str, check_stop: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Label an image from top to bottom.

        Rows of the source are released once all that need them are labeled.

        Args:
            source: the image.
            name: its name, for the progress in tiles.
            check_stop: called after each tile. It raises to stop.

        Yields:
            First and end row, and their labels (end - first, W).
        """
        progress: Iterator[int] = iter(())

        def advance() -> None:
            check_stop()
            next(progress, None)

        rows, num_runs = self._score_rows(source, advance)
        progress = with_progress(range(num_runs), num_runs, "tiles", f"predicting {name}")
        for first, end in strips(self.num_classes, source.size, self.precision.device):
            scores = rows(first, end)
            if self.protocol.threshold is None:
                labels = best_class(scores)
            else:
                labels = self.protocol.threshold(scores.softmax(0) if self.protocol.average == "logits" else scores)
            yield first, end, labels.to(label_dtype(self.num_classes))
            source.release(end - self._lookback())

    def _lookback(self) -> int:
        """Image rows above a labeled one that later ones may need."""
        needed = RESAMPLED if self.tiling is None else self.tiling.reach.margin + RESAMPLED * self.tiling.reach.stride + ALIGNMENT
        return round(needed / min(self.protocol.scales)) + RESAMPLED

    def _score_rows(self, source: SourceRows, advance: Callable[[], None]) -> tuple[Rows, int]:
        """Prepare the mean scores of all passes.

        Returns:
            Their rows, and how often the network will run.
        """
        protocol, device = self.protocol, self.precision.device
        views: list[Rows] = [source, flipped(source)] if protocol.flip and protocol.average != "flip_logits" else [source]
        passes, num_runs, store = [], 0, make_store(self.num_classes, source.size, device)
        for scale in protocol.scales:
            network = CountedPass(self.model, protocol, self.precision, source.size, scale, store, advance=advance)
            for mirrored, view in enumerate(views):
                if protocol.crop:
                    rows, count = network.windows(view, source.size, device), _num_batches(protocol, source.size, scale)
                else:
                    rows, count = self._tiled(network, view)
                passes.append(flipped(rows) if mirrored else rows)
                num_runs += count
        return lambda first, end: summed(passes)(first, end) / len(passes), num_runs

    def _tiled(self, network: ForwardPass, image: Rows) -> tuple[Rows, int]:
        """Prepare the scores of one pass in tiles, and count them."""
        assert self.tiling is not None
        size, scaled = network.size, scaled_size(network.size, network.scale)
        enlarged = corner_size(scaled, self.multiple)
        image = resized(resized(image, size, scaled, align_corners=False), scaled, enlarged, align_corners=True)
        logits = TiledLogits(
            partial(network.logits, unscaled=size),
            image,
            enlarged,
            self.tiling.tile,
            self.tiling.reach,
            self.precision.device,
        )
        rows = resized(logits, logits.logits_size, size, align_corners=bool(self.model.align_corners))
        return (rows if self.protocol.average == "logits" else softmax(rows)), logits.count


def _num_batches(protocol: InferenceProtocol, size: tuple[int, int], scale: float) -> int:
    """Number of forward passes of sliding windows."""
    crop, count = protocol.crop or size, 1
    for axis in zip(scaled_size(size, scale), crop, protocol.step, strict=True):
        count *= len(window_starts(max(axis[0], axis[1]), *axis[1:]))
    return -(-count // protocol.batch)


def _check(protocol: InferenceProtocol) -> None:
    """Raise ConfigError if a protocol needs the whole image in memory."""
    settings = {
        "post": protocol.post is not None,
        "protocol.input_hw": protocol.input_hw is not None,
        "protocol.pad_multiple": protocol.pad_multiple is not None,
        "protocol.resize_multiple": protocol.resize_multiple is not None,
        "protocol.average=flip_logits": protocol.average == "flip_logits" and not protocol.crop,
    }
    if needed := [name for name, is_set in settings.items() if is_set]:
        raise ConfigError(
            f"{' and '.join(needed)} {'needs' if len(needed) == 1 else 'need'} the whole image in memory, and images of more than "
            "stream_megapixels are labeled in strips. Omit that, or raise stream_megapixels."
        )
