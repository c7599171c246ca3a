"""Complete reading of an image file, with what tells it from others."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segzoo.channel_decoder import NPY_SUFFIX
from segzoo.data.channels.reading import read_pixels
from segzoo.data.checks.split_report import is_constant, is_dark
from segzoo.data.image_io import read_bytes
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
    kind = " with ".join(_kind(path) for path in paths)
    digest = hashlib.blake2b(image.data, digest_size=16, key=f"{height}x{width}".encode()).digest()
    dark = pixels.is_rgb and kind.startswith("16-bit") and is_dark(image)
    small = thumbnail(shown_rgb(image, show_channels))
    return ImageSurvey((height, width), orientation, kind, digest, small, is_constant(image), dark)


def _kind(path: Path) -> str:
    """Bits, mode and format of an image that has been decoded once."""
    from PIL import Image

    if path.suffix.lower() == NPY_SUFFIX:
        return "NumPy array"
    data = read_bytes(path)
    with Image.open(io.BytesIO(data)) as header:
        bits = 16 if header.mode.startswith("I") else 1 if header.mode == "1" else 8
        if header.format == "PNG":
            bits = data[24]  # Pillow shows 16-bit colors as 8-bit ones
        mode = {"1": "gray", "L": "gray", "P": "palette"}.get(header.mode, "gray" if header.mode.startswith("I") else header.mode)
        return f"{bits}-bit {mode} {header.format}"
