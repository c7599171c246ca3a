"""How an image is segmented: window, scales, flip and post-processing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, Literal
from typing import Protocol as Interface

from torch import Tensor

from segzoo.registry import ConfigError


class PostProcessor(Interface):
    """Makes labels (N, H, W) of images (N, H, W, 3) uint8 and class probabilities (N, K, H, W)."""

    def __call__(self, image: Tensor, probabilities: Tensor) -> Tensor: ...

    def describe(self) -> str:
        """Name and parameters in words, by which protocols differ."""
        ...


@dataclass(frozen=True)
class InferenceProtocol:
    """How label maps are made, and so which scores may be compared.

    Attributes:
        mode: ``whole`` images, or ``slide``: overlapping windows whose class probabilities are averaged.
        crop: window (H, W) in pixels of the scaled image; for ``slide`` only.
        stride: step (H, W) from window to window; None is two thirds of the crop.
        scales: factors of the image's size; probabilities are averaged over them.
        flip: averages over the mirrored image too.
        post: what makes labels of the probabilities, such as a CRF; None is their arg-max.

    Raises:
        ConfigError: the settings contradict each other.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    post: PostProcessor | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.mode == "slide" and self.crop is None:
            faults.append("mode=slide needs a window: crop=[H,W], usually the crop it was trained with")
        if self.mode == "whole" and (self.crop is not None or self.stride is not None):
            faults.append("crop and stride belong to mode=slide; with mode=whole leave them null")
        if self.crop and self.stride and any(step > size for step, size in zip(self.stride, self.crop, strict=True)):
            faults.append(
                f"stride={list(self.stride)} is larger than crop={list(self.crop)}: pixels between windows would stay unlabeled"
            )
        if not self.scales:
            faults.append("scales is empty; scales=[1.0] is the image's own size")
        if faults:
            raise ConfigError(faults)

    @property
    def single(self) -> bool:
        """One pass over the whole image: labels come straight from the logits, and a loss can be taken from them."""
        return self.mode == "whole" and self.scales == (1.0,) and not self.flip and self.post is None

    def to_dict(self) -> dict[str, Any]:
        """The protocol as others read it, with what never varies here spelled out."""
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
