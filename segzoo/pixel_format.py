"""Channels and bits of images, and the normalization of their samples.

Importing this module imports neither torch nor NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

from segzoo.messages import format_override

MAX_CHANNELS = 128  # of what OpenCV 5 resizes
MEASURE = "Measure them: python tools/dataset.py action=stats data=..."


class PixelFormat(NamedTuple):
    """Form of the pixels of a data set's images.

    Attributes:
        channels: number of channels.
        bits: 8 or 16 bits of a sample.
    """

    channels: int = 3
    bits: int = 8

    @property
    def is_rgb(self) -> bool:
        """True for 8-bit RGB, to which other images are converted."""
        return self == (3, 8)

    @property
    def largest(self) -> int:
        """The largest sample, 255 or 65535."""
        return 2**self.bits - 1

    @property
    def dtype(self) -> Literal["uint8", "uint16"]:
        """Name of the samples' type."""
        return "uint8" if self.bits == 8 else "uint16"

    @property
    def num_bytes(self) -> int:
        """Bytes of a pixel."""
        return self.channels * self.bits // 8

    def __str__(self) -> str:
        return f"{self.channels} channel{'' if self.channels == 1 else 's'} of {self.bits} bits"


RGB = PixelFormat()


class Normalization(NamedTuple):
    """Normalization of images: subtraction of the mean, division by the std.

    Attributes:
        mean, std: one value per channel, on the scale of the samples: 0..255, or 0..65535 for 16 bits.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Normalization:
        """Take ``mean`` and ``std`` from dataset info in plain containers.

        Values of 16-bit images are divided by 257, to the 0..255 scale.
        """
        return cls(tuple(plain["mean"]), tuple(plain["std"])).scaled(1 if plain.get("bits", 8) == 8 else 1 / 257)

    def scaled(self, factor: float) -> Normalization:
        """Convert to another scale of the samples."""
        return self if factor == 1 else Normalization(*(tuple(value * factor for value in values) for values in self))


MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, in torchvision, timm and mmsegmentation
IMAGENET = Normalization(MEAN, STD)


def default_normalization(pixels: PixelFormat) -> Normalization:
    """Mean and standard deviation of images that have not been measured.

    They are ImageNet's for three channels, otherwise the middle and a quarter of the range of the samples.
    """
    eight_bits = IMAGENET if pixels.channels == 3 else Normalization((127.5,) * pixels.channels, (63.75,) * pixels.channels)
    return eight_bits.scaled(pixels.largest / 255)


def pixel_errors(
    pixels: PixelFormat, mean: Sequence[float] | None, std: Sequence[float] | None, show_channels: Sequence[int] | None
) -> list[str]:
    """Errors in the settings of a data set's pixels, one line each."""
    errors = [] if pixels.channels else ["data.mean is empty: give one value per channel, or null."]
    for key, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if len(values) != pixels.channels:
            errors.append(
                f"data.{key} has {len(values)} values for data.channels={pixels.channels}: give one per channel, or null. {MEASURE}"
            )
        is_finite = all(isinstance(value, Real) and math.isfinite(value) for value in values)
        if not is_finite or any(value < 0 or (key == "std" and value == 0) for value in values):
            expected = "numbers above 0" if key == "std" else "numbers of at least 0"
            errors.append(f"data.{key}={list(values)}: expected {expected}. {MEASURE}")
        elif values and max(values) > pixels.largest:
            errors.append(
                f"data.{key}={list(values)}: samples of data.bits={pixels.bits} go up to {pixels.largest}, and so may its values. {MEASURE}"
            )
    if pixels.bits == 16 and mean is not None and tuple(mean) == IMAGENET.mean:
        words = (format_override(f"data.{key}", list(value)) for key, value in default_normalization(pixels)._asdict().items())
        errors.append(f"data.mean={list(mean)} is ImageNet's for samples of 8 bits. For data.bits=16 set {' '.join(words)}.")
    shown = () if show_channels is None else show_channels
    if show_channels is not None and (len(shown) not in (1, 3) or not all(0 <= channel < pixels.channels for channel in shown)):
        errors.append(
            f"data.show_channels={list(shown)}: expected the positions of one channel (gray) or three (red, green, blue), from 0 to "
            f"{pixels.channels - 1}."
        )
    return errors
