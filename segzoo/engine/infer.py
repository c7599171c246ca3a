"""From a picture to a label map: whole or in windows, at one scale or averaged over several, mirrored or not."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Literal
from typing import Protocol as Interface

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.engine.device import Precision
from segzoo.layers.labels import grow_labels
from segzoo.layers.resize import resize
from segzoo.registry import ConfigError
from segzoo.types import Logits


class Post(Interface):
    """Makes labels (N, H, W) of pictures (N, H, W, 3) uint8 and class probabilities (N, K, H, W)."""

    def __call__(self, image: Tensor, probabilities: Tensor) -> Tensor: ...

    def describe(self) -> str:
        """Name and parameters in words, by which protocols differ."""
        ...


@dataclass(frozen=True)
class Protocol:
    """How label maps are made, and so which scores may be compared.

    Attributes:
        mode: ``whole`` pictures, or ``slide``: overlapping windows whose class probabilities are averaged.
        crop: window (H, W) in pixels of the scaled picture; for ``slide`` only.
        stride: step (H, W) from window to window; None is two thirds of the crop.
        scales: factors of the picture's size; probabilities are averaged over them.
        flip: averages over the mirrored picture too.
        post: what makes labels of the probabilities, such as a CRF; None is their arg-max.

    Raises:
        ConfigError: the settings contradict each other.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    post: Post | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.mode == "slide" and self.crop is None:
            faults.append("mode=slide needs a window: crop=[H,W], usually the crop it was trained with")
        if self.mode == "whole" and (self.crop is not None or self.stride is not None):
            faults.append("crop and stride belong to mode=slide; with mode=whole leave them null")
        if self.crop and self.stride and any(step > size for step, size in zip(self.stride, self.crop, strict=True)):
            faults.append(
                f"stride={list(self.stride)} is larger than crop={list(self.crop)}: pixels between windows would stay unlabelled"
            )
        if not self.scales:
            faults.append("scales is empty; scales=[1.0] is the picture's own size")
        if faults:
            raise ConfigError(faults)

    @property
    def single(self) -> bool:
        """One pass over the whole picture: labels come straight from the logits, and a loss can be taken from them."""
        return self.mode == "whole" and self.scales == (1.0,) and not self.flip and self.post is None

    def to_dict(self) -> dict[str, Any]:
        """The protocol as others read it, with what never varies here spelt out."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        own = {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}
        own["post"] = "none" if self.post is None else self.post.describe()
        if self.crop:
            own["stride"] = list(self.step)
        return own | {"label_resolution": "original", "absent_classes": "left out of the mean"}

    @property
    def id(self) -> str:
        """A short hash of ``to_dict()``; scores of different ids must not be ranked."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def step(self) -> tuple[int, int]:
        """The stride of the windows, (H, W) in pixels."""
        height, width = self.crop or (1, 1)
        return self.stride or (max(1, height * 2 // 3), max(1, width * 2 // 3))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A ``with`` block in evaluation mode; every module, a frozen norm too, is in its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def forward(model: nn.Module, x: Tensor, precision: Precision) -> Logits:
    """One pass of the model under autocast; x is (N, 3, H, W) normalised."""
    with precision.autocast():
        return model(x)


@torch.no_grad()
def label_map(model: nn.Module, x: Tensor, image: Tensor, protocol: Protocol, precision: Precision) -> Tensor:
    """Class ids of a normalised picture at its own size. A single pass never holds K x H x W numbers; every other protocol does.

    Args:
        model: gives the scores.
        x: (1, 3, H, W), the normalised picture.
        image: (1, H, W, 3) uint8, the picture as it was, for the protocol's ``post``.
        protocol: windows, scales and what makes labels of the probabilities.
        precision: number format of the layers.

    Shapes:
        -> (1, H, W)
    """
    if protocol.single:
        return labels_of(model, forward(model, x, precision), x.shape[-2:])
    probabilities = class_probabilities(model, x, protocol, precision)
    return probabilities.argmax(1) if protocol.post is None else protocol.post(image, probabilities)


def labels_of(model: nn.Module, logits: Logits, size: torch.Size | tuple[int, int]) -> Tensor:
    """The arg-max of the logits grown to ``size``, made in strips of rows."""
    return grow_labels(logits.main, tuple(size), bool(model.align_corners))


def class_probabilities(model: nn.Module, x: Tensor, protocol: Protocol, precision: Precision) -> Tensor:
    """Class probabilities averaged over scales, mirroring and windows; the picture is resized, never the label.

    Shapes:
        (1, 3, H, W) -> (1, K, H, W)
    """
    size = tuple(x.shape[-2:])
    total, passes = _zeros(model, x), 0
    for scale in protocol.scales:
        scaled = x if scale == 1.0 else resize(x, _scaled(size, scale), align_corners=False)
        for mirrored in (False, True)[: 1 + protocol.flip]:
            view = scaled.flip(3) if mirrored else scaled
            found = _windows(model, view, protocol, precision) if protocol.mode == "slide" else _whole(model, view, size, precision)
            if tuple(found.shape[-2:]) != size:
                found = resize(found, size, align_corners=False)
            total += found.flip(3) if mirrored else found
            passes += 1
    return total / passes


def window_starts(size: int, crop: int, step: int) -> list[int]:
    """Where windows begin along one side: every ``step`` pixels, the last one moved back to end with the picture."""
    count = max(0, math.ceil((size - crop) / step)) + 1
    return [max(0, min(number * step, size - crop)) for number in range(count)]


def _whole(model: nn.Module, x: Tensor, size: tuple[int, ...], precision: Precision) -> Tensor:
    logits = forward(model, x, precision).main
    return resize(logits, size, align_corners=bool(model.align_corners)).softmax(1)


def _windows(model: nn.Module, x: Tensor, protocol: Protocol, precision: Precision) -> Tensor:
    """The mean of the probabilities of all windows over a pixel; a picture smaller than a window is padded with the mean colour."""
    (height, width), crop = x.shape[-2:], protocol.crop or (0, 0)
    x = F.pad(x, (0, max(0, crop[1] - width), 0, max(0, crop[0] - height)))  # normalised, so 0 is the mean
    total, count = _zeros(model, x), x.new_zeros(1, 1, *x.shape[-2:])
    for rows, columns in _places(x, crop, protocol.step):
        total[..., rows, columns] += _whole(model, x[..., rows, columns], crop, precision)
        count[..., rows, columns] += 1
    return (total / count)[..., :height, :width]


def _places(x: Tensor, crop: tuple[int, int], step: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    for top in window_starts(x.shape[-2], crop[0], step[0]):
        for left in window_starts(x.shape[-1], crop[1], step[1]):
            yield slice(top, top + crop[0]), slice(left, left + crop[1])


def _zeros(model: nn.Module, x: Tensor) -> Tensor:
    return x.new_zeros(1, int(model.num_classes), *x.shape[-2:])  # type: ignore[arg-type]


def _scaled(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
