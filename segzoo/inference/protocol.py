"""Inference protocol: sliding window, scales, flip and post-processing."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, Protocol

from segzoo.registry import ConfigError
from segzoo.types import PlainDict

if TYPE_CHECKING:
    from torch import Tensor


class PostProcessor(Protocol):
    """A function from images and class probabilities to labels.

    Shapes:
        images (N, H, W, 3) uint8, probabilities (N, K, H, W) -> labels (N, H, W)
    """

    def __call__(self, image: Tensor, probabilities: Tensor) -> Tensor: ...

    def describe(self) -> str:
        """Return the name and parameters, which become part of the protocol."""
        ...


@dataclass(frozen=True)
class InferenceProtocol:
    """Inference settings that affect the predicted labels.

    Only scores taken under the same settings may be compared.

    Attributes:
        mode: ``whole`` images, or ``slide`` for overlapping windows whose class probabilities are averaged.
        crop: window size (H, W) in pixels of the scaled image, for ``slide`` only.
        stride: stride (H, W) of the windows in pixels. None means two thirds of the crop, rounded up (PSPNet's release).
        scales: scale factors of the image size. Probabilities are averaged over them.
        flip: also average over the horizontally flipped image.
        pad_multiple: pad whole images at the bottom and right with the mean color until both sides are a multiple plus 1 (DeepLab's
            release: 8). None keeps their size.
        resize_multiple: enlarge whole images until both sides are a multiple plus 1 (ICNet's release: 32). None keeps their size.
        post: converts probabilities to labels, such as a CRF. None takes the argmax.

    Raises:
        ConfigError: if the settings contradict each other.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    post: PostProcessor | None = None
    pad_multiple: int | None = None
    resize_multiple: int | None = None

    def __post_init__(self) -> None:
        errors = []
        if self.mode == "slide" and self.crop is None:
            errors.append("mode=slide needs a window: set 'crop=[H,W]', usually the training crop")
        if self.mode == "whole" and (self.crop is not None or self.stride is not None):
            errors.append("crop and stride require mode=slide; leave them null with mode=whole")
        if self.crop and self.stride and any(step > size for step, size in zip(self.stride, self.crop, strict=True)):
            errors.append(f"stride={list(self.stride)} exceeds crop={list(self.crop)}: pixels between windows would stay unlabeled")
        if self.pad_multiple and self.resize_multiple:
            errors.append(f"pad_multiple={self.pad_multiple} and resize_multiple={self.resize_multiple} are both given; keep one")
        if self.mode == "slide" and (self.pad_multiple or self.resize_multiple):
            errors.append(
                "pad_multiple and resize_multiple require mode=whole; with mode=slide, set the size of the windows: 'crop=[H,W]'"
            )
        if not self.scales:
            errors.append("scales is empty; use 'scales=[1.0]' for the original size")
        if errors:
            raise ConfigError(errors)

    @property
    def single(self) -> bool:
        """True for one forward pass over the whole image, without post-processing.

        Labels then come straight from the logits, and a loss can be computed from them.
        """
        as_stored = self.scales == (1.0,) and not self.flip and not self.pad_multiple and not self.resize_multiple
        return self.mode == "whole" and as_stored and self.post is None

    def to_dict(self) -> PlainDict:
        """Return the protocol as JSON-able containers, including its fixed conventions."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        values["post"] = "none" if self.post is None else self.post.describe()
        if self.crop:
            values["stride"] = list(self.step)
        return values | {"label_resolution": "original", "absent_classes": "left out of the mean"}

    @property
    def step(self) -> tuple[int, int]:
        """Stride of the windows, (H, W) in pixels."""
        height, width = self.crop or (1, 1)
        return self.stride or (math.ceil(height * 2 / 3), math.ceil(width * 2 / 3))
