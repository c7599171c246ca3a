"""Complete reading of an image file, with what tells it from others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segzoo.data.channels.reading import read_pixels
from segzoo.data.channels.sample_bits import describe_samples, is_dark
from segzoo.data.checks.split_report import is_constant
from segzoo.data.near_duplicates import thumbnail
from segzoo.pixel_format import PixelFormat
from segzoo.visualization.drawing import shown_rgb


class ImageSurvey(NamedTuple):
    """Properties of a completely read image.

    Attributes:
        size: (H, W) of the upright image.
        orientation: orientation of the stored image, 1 to 8.
        kind: bits, mode and format, such as ``8-bit RGB JPEG``.
        digest: hash of size and pixels.
        thumbnail: see ``near_duplicates.thumbnail``.
        constant: whether all pixels are equal.
        dark: whether 16-bit samples use only their lowest 12 bits or fewer.
    """

    size: tuple[int, int]
    orientation: int
    kind: str
    digest: bytes
    thumbnail: np.ndarray
    constant: bool
    dark: bool


def survey_image(paths: Sequence[Path], pixels: PixelFormat, show_channels: Sequence[int] | None) -> ImageSurvey:
    """Decode a whole image and survey it.

    Args:
        paths, pixels: as for ``read_pixels``.
        show_channels: the channels of the thumbnail.

    Raises:
        DataError: as ``read_pixels``.
    """
    image, orientation = read_pixels(paths, pixels)
    height, width = image.shape[:2]
    kind = " with ".join(describe_samples(path) for path in paths)
    digest = hashlib.blake2b(image.data, digest_size=16, key=f"{height}x{width}".encode()).digest()
    dark = pixels.is_rgb and kind.startswith("16-bit") and is_dark(image)
    small = thumbnail(shown_rgb(image, show_channels))
    return ImageSurvey((height, width), orientation, kind, digest, small, is_constant(image), dark)
