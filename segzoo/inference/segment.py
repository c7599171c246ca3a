"""Segmentation of single images.

Whole images or sliding windows, at one scale or averaged over several, with or without flipping.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.device import Precision
from segzoo.inference.exported_network import ExportedNetwork
from segzoo.inference.protocol import InferenceProtocol
from segzoo.layers.resize import resize
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.messages import format_override
from segzoo.progress import with_progress
from segzoo.types import InputTooSmall, Logits


def forward(model: nn.Module, x: Tensor, precision: Precision) -> Logits:
    """Run the model under autocast on normalized images (N, 3, H, W)."""
    with precision.autocast():
        return model(x)


@torch.no_grad()
def segment_image(model: nn.Module, x: Tensor, image: Tensor, protocol: InferenceProtocol, precision: Precision) -> Tensor:
    """Predict the class ids of one image at its own size.

    A single-pass protocol never allocates a K x H x W tensor. Every other protocol does.

    Args:
        model: the network.
        x: (1, 3, H, W), the normalized image.
        image: (1, H, W, 3) uint8, the original image, for the protocol's ``post``.
        protocol: windows, scales, flip and post-processing.
        precision: precision of the layers.

    Shapes:
        -> (1, H, W)
    """
    if protocol.single:
        if isinstance(model, ExportedNetwork):
            return model.label_images(image)
        return logits_to_labels(model, forward(model, x, precision), x.shape[-2:])
    probabilities = predict_probabilities(model, x, protocol, precision)
    return probabilities.argmax(1) if protocol.post is None else protocol.post(image, probabilities)


def logits_to_labels(model: nn.Module, logits: Logits, size: torch.Size | tuple[int, int]) -> Tensor:
    """Upsample logits to ``size`` and take the argmax, in strips of rows."""
    return upsample_argmax(logits.main, tuple(size), bool(model.align_corners))


def predict_probabilities(model: nn.Module, x: Tensor, protocol: InferenceProtocol, precision: Precision) -> Tensor:
    """Average class probabilities over scales, flips and windows.

    The image is resized to each scale. Labels are never resized.

    Shapes:
        (1, 3, H, W) -> (1, K, H, W)
    """
    size = tuple(x.shape[-2:])
    total, passes = _zeros(model, x), 0
    for scale in protocol.scales:
        scaled = x if scale == 1.0 else resize(x, _scaled(size, scale), align_corners=False)
        for flipped in (False, True)[: 1 + protocol.flip]:
            view = scaled.flip(3) if flipped else scaled
            try:
                probabilities = (
                    _sliding_window(model, view, protocol, precision)
                    if protocol.mode == "slide"
                    else _whole_image(model, view, size, protocol, precision)
                )
            except InputTooSmall as error:
                raise ValueError(_too_small(error, size, scale, protocol)) from error
            if tuple(probabilities.shape[-2:]) != size:
                probabilities = resize(probabilities, size, align_corners=False)
            total += probabilities.flip(3) if flipped else probabilities
            passes += 1
    return total / passes


def _too_small(error: InputTooSmall, size: tuple[int, ...], scale: float, protocol: InferenceProtocol) -> str:
    """Name what is too small: the windows, the scale or the image."""
    limit = f"below the model's minimum of {error.minimum} x {error.minimum}"
    if protocol.mode == "slide":
        crop = [max(side, error.minimum) for side in protocol.crop or ()]
        return f"the windows crop={list(protocol.crop or ())} are {limit} pixels. Set at least {format_override('crop', crop)}."
    if scale >= 1:
        return str(error)
    height, width = _scaled(size, scale)
    smallest = math.ceil(100 * error.minimum / min(size)) / 100
    return (
        f"the scale {scale:g} makes {height} x {width} of {size[0]} x {size[1]} pixels (H x W), {limit}. Use scales of at least "
        f"{smallest:g} for this image."
    )


def window_starts(size: int, crop: int, step: int) -> list[int]:
    """Compute the window offsets along one axis.

    Windows start every ``step`` pixels, and the last one is moved back to end at the image border. All values are in pixels.
    """
    count = max(0, math.ceil((size - crop) / step)) + 1
    return [max(0, min(index * step, size - crop)) for index in range(count)]


def _whole_image(model: nn.Module, x: Tensor, size: tuple[int, ...], protocol: InferenceProtocol, precision: Precision) -> Tensor:
    """Predict the class probabilities of a whole image.

    They have ``size``, unless the protocol changes the size of the image.
    """
    height, width = x.shape[-2:]
    if protocol.resize_multiple:
        enlarged = _next_multiple(height, protocol.resize_multiple), _next_multiple(width, protocol.resize_multiple)
        return _network_probabilities(model, resize(x, enlarged, align_corners=False), enlarged, precision)
    if protocol.pad_multiple:
        bottom, right = (_next_multiple(side, protocol.pad_multiple) - side for side in (height, width))
        padded = F.pad(x, (0, right, 0, bottom))  # 0 is the mean color after normalization
        return _network_probabilities(model, padded, padded.shape[-2:], precision)[..., :height, :width]
    return _network_probabilities(model, x, size, precision)


def _network_probabilities(model: nn.Module, x: Tensor, size: tuple[int, ...], precision: Precision) -> Tensor:
    logits = forward(model, x, precision).main
    return resize(logits, size, align_corners=bool(model.align_corners)).softmax(1)


def _sliding_window(model: nn.Module, x: Tensor, protocol: InferenceProtocol, precision: Precision) -> Tensor:
    """Average the class probabilities of overlapping windows.

    An image smaller than the window is padded with the mean color.
    """
    (height, width), crop = x.shape[-2:], protocol.crop or (0, 0)
    x = F.pad(x, (0, max(0, crop[1] - width), 0, max(0, crop[0] - height)))  # 0 is the mean color after normalization
    total, count = _zeros(model, x), x.new_zeros(1, 1, *x.shape[-2:])
    windows = list(_window_slices(x, crop, protocol.step))
    for rows, columns in with_progress(windows, len(windows), "windows", "sliding"):
        total[..., rows, columns] += _network_probabilities(model, x[..., rows, columns], crop, precision)
        count[..., rows, columns] += 1
    return (total / count)[..., :height, :width]


def _window_slices(x: Tensor, crop: tuple[int, int], step: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for top in window_starts(x.shape[-2], crop[0], step[0]):
        for left in window_starts(x.shape[-1], crop[1], step[1]):
            yield slice(top, top + crop[0]), slice(left, left + crop[1])


def _zeros(model: nn.Module, x: Tensor) -> Tensor:
    return x.new_zeros(1, int(model.num_classes), *x.shape[-2:])  # type: ignore[arg-type]


def _next_multiple(side: int, multiple: int) -> int:
    """The smallest k * multiple + 1 that is at least ``side``."""
    return math.ceil((side - 1) / multiple) * multiple + 1


def _scaled(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
