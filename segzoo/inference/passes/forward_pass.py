"""One pass of a network over an image, whole or in windows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.device import Precision
from segzoo.inference.passes.logit_store import MAX_KEPT, LogitStore
from segzoo.inference.passes.score_rows import Rows, cropped, resized, softmax
from segzoo.inference.passes.windows import Windows
from segzoo.inference.protocol import InferenceProtocol
from segzoo.layers.resize import corner_size, resize
from segzoo.messages import format_override
from segzoo.types import InputTooSmall, Logits

Size = tuple[int, int]  # height and width in pixels


def forward(model: nn.Module, x: Tensor, precision: Precision) -> Logits:
    """Run the model under autocast on normalized images (N, 3, H, W).

    Raises:
        TypeError: the model returned something else.
    """
    with precision.autocast():
        logits = model(x)
    if not isinstance(logits, Logits):
        name = type(getattr(model, "module", model)).__name__  # a module inside DistributedDataParallel
        raise TypeError(f"{name}.forward returned {type(logits).__name__}, expected segzoo.types.Logits(main, aux)")
    return logits


def size_of(x: Tensor) -> Size:
    """Height and width of an image (N, C, H, W)."""
    return x.shape[-2], x.shape[-1]


@dataclass(frozen=True)
class ForwardPass:
    """A pass at one scale.

    Attributes:
        model: the network.
        protocol: windows, sizes and what is averaged.
        precision: precision of the layers.
        size: height and width of the scores.
        scale: scale factor of the image.
        store: keeps the logits.
    """

    model: nn.Module
    protocol: InferenceProtocol
    precision: Precision
    size: Size
    scale: float
    store: LogitStore = field(default_factory=lambda: LogitStore(MAX_KEPT))

    def whole_image(self, x: Tensor) -> Rows:
        """Run the network on a whole image (1, 3, H, W).

        Logits are upsampled to the final size at once, unless the protocol enlarges or pads the image.

        Returns:
            Rows of its scores.
        """
        scaled, multiple = scaled_size(size_of(x), self.scale), self.protocol.resize_multiple or self.protocol.pad_multiple
        upsampled = visible = self.size
        image = x if scaled == size_of(x) else resize(x, scaled, align_corners=False)
        if multiple:
            upsampled = corner_size(scaled, multiple)
        if self.protocol.resize_multiple:
            visible, image = upsampled, resize(image, upsampled, align_corners=False)
        elif self.protocol.pad_multiple:
            visible = scaled
            image = F.pad(image, (0, upsampled[1] - scaled[1], 0, upsampled[0] - scaled[0]))  # 0 is the mean color
        logits = self.logits(image, size_of(x))[0]
        rows = cropped(self._scores(logits, upsampled), visible[1])
        return resized(rows, visible, self.size, align_corners=False)

    def windows(self, image: Rows, unscaled: Size, device: torch.device) -> Rows:
        """Prepare sliding windows over an image.

        They run as rows of their average scores are needed. Logits of a few windows are kept at a time.

        Args:
            image: rows of the normalized image, read from top to bottom.
            unscaled: its height and width.
            device: its device.
        """
        crop, scaled = self.protocol.crop or unscaled, scaled_size(unscaled, self.scale)
        image = resized(image, unscaled, scaled, align_corners=False)

        def run(batch: Tensor) -> list[Rows]:
            return [self._scores(logits, crop) for logits in self.logits(batch, unscaled)]

        windows = Windows(run, image, scaled, self.protocol, device)
        return resized(windows, scaled, self.size, align_corners=False)

    def logits(self, x: Tensor, unscaled: Size) -> Tensor:
        """Return the logits of images or windows.

        With ``average=flip_logits``, those of their mirror images are added. Errors name ``unscaled``, the size of the unscaled image.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        try:
            logits = forward(self.model, x, self.precision).main.float()
            if self.protocol.average == "flip_logits":
                logits = logits + forward(self.model, x.flip(3), self.precision).main.flip(3)
        except InputTooSmall as error:
            raise ValueError(_too_small(error, unscaled, self.scale, self.protocol)) from error
        return logits

    def _scores(self, logits: Tensor, size: Size) -> Rows:
        """Upsample logits (K, h, w) to what the protocol averages."""
        rows = resized(self.store.keep(logits), size_of(logits), size, align_corners=bool(self.model.align_corners))
        return rows if self.protocol.average == "logits" else softmax(rows)


def _too_small(error: InputTooSmall, size: Size, scale: float, protocol: InferenceProtocol) -> str:
    """Name what is too small: the windows, the scale or the image."""
    limit = f"below the model's minimum of {error.minimum} x {error.minimum}"
    if protocol.crop:
        crop = [max(side, error.minimum) for side in protocol.crop]
        return f"the windows protocol.crop={list(protocol.crop)} are {limit} pixels. Set at least {format_override('protocol.crop', crop)}."
    if scale >= 1:
        return str(error)
    height, width = scaled_size(size, scale)
    smallest = math.ceil(100 * error.minimum / min(size)) / 100
    return (
        f"the scale {scale:g} makes {height} x {width} of {size[0]} x {size[1]} pixels (H x W), {limit}. Use scales of at least "
        f"{smallest:g} for this image."
    )


def scaled_size(size: Size, scale: float) -> Size:
    """Height and width of a scaled image, at least 1 pixel each."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
