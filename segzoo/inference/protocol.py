"""Inference protocols: sliding windows, scales, flip and post-processing."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, get_type_hints

from segzoo.io import plain_numbers
from segzoo.messages import Example, format_override
from segzoo.registry import PROTOCOLS, ConfigError, Range, coerce, type_error
from segzoo.types import PlainDict

if TYPE_CHECKING:
    from torch import Tensor

Size = Annotated[tuple[int, int], Range(1, 16384), Example([480, 640])]  # height and width in pixels
Scales = Annotated[tuple[float, ...], Range(0, 32, above=True)]
Multiple = Annotated[int, Range(2, 512)]
Average = Literal["probabilities", "logits", "flip_logits"]
LabelSize = Literal["original", "input"]
WindowWeights = Literal["uniform", "gaussian"]
Windows = Annotated[int, Range(1, 4096)]  # per forward pass


class PostProcessor(Protocol):
    """A function from images and class probabilities to labels.

    Shapes:
        images (N, H, W, 3) uint8, probabilities (N, K, H, W) -> labels (N, H, W)
    """

    def __call__(self, image: Tensor, probabilities: Tensor) -> Tensor: ...

    def describe(self) -> str:
        """Return the name and parameters, which become part of the protocol."""
        ...


class StripLabeler(Protocol):
    """A function from class probabilities to labels."""

    @property
    def values(self) -> PlainDict:
        """Parameters, which become part of exported files."""
        ...

    def __call__(self, probabilities: Tensor, dim: int = 0) -> Tensor:
        """Label pixels, whose classes are the dimension ``dim``."""
        ...

    def describe(self) -> str:
        """Return the parameters, which become part of the protocol."""
        ...


@PROTOCOLS.register
def whole(
    post: PostProcessor | None = None,
    *,
    scales: Scales = (1.0,),
    flip: bool = False,
    average: Average = "probabilities",
    input_hw: Size | None = None,
    label_size: LabelSize = "original",
    pad_multiple: Multiple | None = None,
    resize_multiple: Multiple | None = None,
) -> InferenceProtocol:
    """Whole images, with the settings of ``InferenceProtocol``."""
    return InferenceProtocol(
        scales=scales,
        flip=flip,
        average=average,
        input_hw=input_hw,
        label_size=label_size,
        pad_multiple=pad_multiple,
        resize_multiple=resize_multiple,
        post=post,
    )


@PROTOCOLS.register
def slide(
    post: PostProcessor | None = None,
    *,
    crop: Size | None = None,
    stride: Size | None = None,
    window_weights: WindowWeights = "uniform",
    batch: Windows = 1,
    scales: Scales = (1.0,),
    flip: bool = False,
    average: Average = "probabilities",
    input_hw: Size | None = None,
    label_size: LabelSize = "original",
) -> InferenceProtocol:
    """Overlapping windows, with the settings of ``InferenceProtocol``.

    Tools replace a ``crop`` of None by the crop that the network was trained with.

    Raises:
        ConfigError: ``crop`` is None.
    """
    if crop is None:
        raise ConfigError(
            "protocol.crop=null: no crop of the training is known for the windows. Set their size: 'protocol.crop=[H,W]'."
        )
    return InferenceProtocol(
        crop=crop,
        stride=stride,
        window_weights=window_weights,
        batch=batch,
        scales=scales,
        flip=flip,
        average=average,
        input_hw=input_hw,
        label_size=label_size,
        post=post,
    )


@cache
def _setting_types() -> dict[str, object]:
    """Types of the settings of ``InferenceProtocol``, with their ranges."""
    types = get_type_hints(InferenceProtocol, include_extras=True)
    return {name: kind for name, kind in types.items() if name not in ("post", "threshold")}


@dataclass(frozen=True, kw_only=True)
class InferenceProtocol:
    """Inference settings that affect the predicted labels.

    Only scores taken under the same settings may be compared.

    Attributes:
        crop: size (H, W) of sliding windows in pixels of the scaled image. None means whole images.
        stride: stride (H, W) of the windows in pixels. None means two thirds of the crop, rounded up (PSPNet's release).
        window_weights: ``uniform``, or ``gaussian`` with a standard deviation of an eighth of the window, so that its border counts less.
        batch: windows per forward pass. It is not part of the protocol's id, since labels do not depend on it up to rounding.
        scales: scale factors of the image size, averaged over.
        flip: also average over the horizontally flipped image.
        average: what windows, scales and flips average: ``probabilities`` or ``logits``. ``flip_logits`` adds the logits of each window
            or image and of its mirror image before the softmax, and averages probabilities otherwise (PSPNet's release).
        input_hw: size (H, W) that images are resized to before anything else. None keeps their size.
        label_size: scores count pixels at the ``original`` size of the label, or at ``input`` size, to which labels are then resized.
        pad_multiple: pad whole images at the bottom and right with the mean color until both sides are a multiple plus 1. 8 aligns
            the corners of DeepLab-LargeFOV; 512 pads images of VOC to 513x513, as its release. None keeps their size.
        resize_multiple: enlarge whole images until both sides are a multiple plus 1 (ICNet's release: 32). None keeps their size.
        post: converts probabilities to labels, such as a CRF. None takes the argmax.
        threshold: labels strips of probabilities (K, rows, W) in place of the argmax, see ``with_threshold``.

    Raises:
        ConfigError: if a setting is invalid, or the settings contradict each other.
    """

    crop: Size | None = None
    stride: Size | None = None
    window_weights: WindowWeights = "uniform"
    batch: Windows = 1
    scales: Scales = (1.0,)
    flip: bool = False
    average: Average = "probabilities"
    input_hw: Size | None = None
    label_size: LabelSize = "original"
    pad_multiple: Multiple | None = None
    resize_multiple: Multiple | None = None
    post: PostProcessor | None = None
    threshold: StripLabeler | None = None

    def __post_init__(self) -> None:
        types = _setting_types()
        given = {name: plain_numbers(getattr(self, name)) for name in types}
        wrong = {name: type_error(value, types[name]) for name, value in given.items()}
        if errors := [f"protocol.{name}={given[name]!r}, expected {kind}." for name, kind in wrong.items() if kind]:
            raise ConfigError(errors)
        for name, value in given.items():
            object.__setattr__(self, name, coerce(value, types[name]))
        if self.crop and self.stride and any(step > size for step, size in zip(self.stride, self.crop, strict=True)):
            errors.append(
                f"protocol.stride={list(self.stride)} exceeds protocol.crop={list(self.crop)}: pixels between windows would stay "
                f"unlabeled. Set at most {format_override('protocol.stride', list(self.crop))}."
            )
        if self.pad_multiple and self.resize_multiple:
            errors.append(
                f"protocol.pad_multiple={self.pad_multiple} and protocol.resize_multiple={self.resize_multiple} are both given. "
                "Set one of them to null."
            )
        if self.crop and (self.pad_multiple or self.resize_multiple):
            errors.append("pad_multiple and resize_multiple are for whole images. Windows have the size of crop.")
        if not self.scales:
            errors.append("protocol.scales is empty. Set 'protocol.scales=[1.0]' for the original size.")
        if repeated := [scale for scale in self.scales if self.scales.count(scale) > 1]:
            errors.append(f"protocol.scales={list(self.scales)} holds {repeated[0]:g} more than once. Name each scale once.")
        if self.average == "flip_logits" and not self.flip:
            errors.append("protocol.average=flip_logits needs the flipped image. Set protocol.flip=true.")
        if self.label_size == "input" and not self.input_hw:
            errors.append("protocol.label_size=input needs the input size. Set 'protocol.input_hw=[H,W]'.")
        if self.label_size == "input" and self.post:
            errors.append("post-processing reads the original image. Set protocol.label_size=original or post=none.")
        if self.threshold and self.post:
            errors.append("threshold and post both turn probabilities into labels. Set post=none or 'threshold={}'.")
        if errors:
            raise ConfigError(errors)

    @property
    def mode(self) -> Literal["whole", "slide"]:
        """Input of the network, whole images or windows."""
        return "slide" if self.crop else "whole"

    @property
    def single(self) -> bool:
        """True for one pass over the whole image and a plain argmax.

        Labels then come straight from the logits, and a loss can be computed from them.
        """
        return self.one_pass and self.threshold is None

    @property
    def one_pass(self) -> bool:
        """True for one pass over the whole image, as in exported files."""
        changes_size = self.scales != (1.0,) or self.input_hw or self.pad_multiple or self.resize_multiple
        return not (self.crop or changes_size or self.flip or self.post)

    @property
    def step(self) -> tuple[int, int]:
        """Stride of the windows, (H, W) in pixels."""
        height, width = self.crop or (1, 1)
        return self.stride or (math.ceil(height * 2 / 3), math.ceil(width * 2 / 3))

    def output_size(self, image: tuple[int, int]) -> tuple[int, int]:
        """Return the size (H, W) at which an image is labeled."""
        return self.input_hw if self.input_hw and self.label_size == "input" else image

    def to_dict(self) -> PlainDict:
        """Return the protocol as JSON-able containers, including its fixed conventions.

        Settings newer than the first release appear only where they differ from it, so that its scores keep their protocol id.
        """
        newer = {"window_weights": "uniform", "average": "probabilities", "input_hw": None, "threshold": None}
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("batch", "label_size")}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        values = {name: value for name, value in values.items() if name not in newer or value != newer[name]}
        if self.threshold:
            values["threshold"] = self.threshold.describe()
        values["post"] = "none" if self.post is None else self.post.describe()
        if self.crop:
            values["stride"] = list(self.step)
        return {"mode": self.mode} | values | {"label_resolution": self.label_size, "absent_classes": "left out of the mean"}


SINGLE_PASS = InferenceProtocol()  # what a training evaluates with


def check_label_size(protocol: InferenceProtocol) -> None:
    """Raise ConfigError for a protocol that labels images at another size."""
    if protocol.label_size != "original":
        raise ConfigError("protocol.label_size=input is for scores: label maps have the size of their image. Omit it.")
