"""Decoding of JPEG images at a fraction of their size.

libjpeg computes 1/2, 1/4 or 1/8 of the size from fewer coefficients of each block, in a third to a tenth of the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from segzoo.data.image_io import read_bytes
from segzoo.image_decoder import MAX_PIXELS, ImageError, gray_to_rgb, is_plain_jpeg, open_image
from segzoo.messages import printable
from segzoo.types import DataError

REDUCTIONS = (8, 4, 2)  # divisors of the size


@runtime_checkable
class ShrinksImages(Protocol):
    """Augmentation that knows how much it will scale an image down."""

    def reduction(self, seed: int) -> int:
        """Divisor of the image's sides for this seed."""
        ...


def largest_reduction(factor: float) -> int:
    """Largest divisor that leaves at least the size of a resized image.

    Args:
        factor: of the resized image's sides to those of the file.

    Returns:
        8, 4, 2 or 1.
    """
    return next((reduction for reduction in REDUCTIONS if factor * reduction <= 1), 1)


def reduced_length(length: int, reduction: int) -> int:
    """Side of a reduced image in pixels.

    The last one may cover less of the source.
    """
    return -(-length // reduction)


def read_reduced(path: str | Path, reduction: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """Read an upright JPEG at a fraction of its size.

    Args:
        path: the image file.
        reduction: divisor of its sides: 2, 4 or 8.

    Returns:
        (ceil(H / reduction), ceil(W / reduction), 3) uint8 RGB with the size (H, W) of the file, or None if the file is not a complete,
        upright JPEG of gray or RGB pixels, which is then read as any other image.

    Raises:
        DataError: the file cannot be opened or is too large.
    """
    import cv2

    data = read_bytes(path)
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        image = open_image(data, ("JPEG",), MAX_PIXELS)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error
    if image.mode not in ("L", "RGB") or not is_plain_jpeg(image, data):
        return None
    kind = "COLOR" if image.mode == "RGB" else "GRAYSCALE"
    flag = getattr(cv2, f"IMREAD_REDUCED_{kind}_{reduction}") | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    height, width = image.size[::-1]
    if pixels is None or pixels.shape[:2] != (reduced_length(height, reduction), reduced_length(width, reduction)):
        return None
    rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels) if image.mode == "RGB" else gray_to_rgb(pixels)
    return rgb, (height, width)
