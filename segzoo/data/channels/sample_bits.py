"""Bits of an image file's samples, and images that hardly use them."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import numpy as np

from segzoo.channel_decoder import NPY_SUFFIX
from segzoo.data.image_io import read_bytes

DARK = 16  # samples of 12 bits or fewer, stored in 16, stay below it in 8 bits
UNUSED_BITS = "store samples below 4096 in 16 bits and are read as nearly black. Multiply the samples so that they fill 16 bits."


def describe_samples(path: Path) -> str:
    """Bits, mode and format of an image, such as ``8-bit RGB JPEG``."""
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


def is_dark(image: np.ndarray) -> bool:
    """Check whether an image of 8 bits is nearly black."""
    return image.dtype == np.uint8 and int(image.max()) < DARK


def leaves_bits_unused(image: np.ndarray, path: Path) -> bool:
    """Check whether 16-bit samples use only their lowest 12 bits or fewer.

    Args:
        image: the image as it is read, (H, W, C). Its file is opened only if it is of 8 bits and nearly black.
        path: its file.
    """
    if not is_dark(image):
        return False
    with suppress(OSError, ValueError):  # of a format that Pillow does not know
        return describe_samples(path).startswith("16-bit")
    return False
