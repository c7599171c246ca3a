"""Complete reading of an image file, with what tells it from others."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segzoo.data.checks.split_report import is_constant
from segzoo.data.image_io import printable, read_bytes
from segzoo.data.near_duplicates import thumbnail
from segzoo.image_decoder import ImageError, decode_rgb
from segzoo.types import DataError

DARK = 16  # an image of 16 bits that stays below it in 8 bits has probably values of 12 bits or fewer


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


def survey_image(path: Path) -> ImageSurvey:
    """Decode a whole image and survey it.

    Raises:
        DataError: as ``image_io.read_image``.
    """
    data = read_bytes(path)
    try:
        image, orientation = decode_rgb(data)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error
    height, width = image.shape[:2]
    kind = _kind(data)
    digest = hashlib.blake2b(image.data, digest_size=16, key=f"{height}x{width}".encode()).digest()
    dark = kind.startswith("16-bit") and int(image.max()) < DARK
    return ImageSurvey((height, width), orientation, kind, digest, thumbnail(image), is_constant(image), dark)


def _kind(data: bytes) -> str:
    """Bits, mode and format of an image that has been decoded once."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as header:
        bits = 16 if header.mode.startswith("I") else 1 if header.mode == "1" else 8
        if header.format == "PNG":
            bits = data[24]  # Pillow shows 16-bit colors as 8-bit ones
        mode = {"1": "gray", "L": "gray", "P": "palette"}.get(header.mode, "gray" if header.mode.startswith("I") else header.mode)
        return f"{bits}-bit {mode} {header.format}"
