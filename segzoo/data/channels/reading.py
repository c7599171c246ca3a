"""Reading of images in the pixel format of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segzoo.channel_decoder import NPY_SUFFIX, decode_channels, decode_samples, join_channels, npy_shape
from segzoo.data.image_io import read_bytes, read_header, read_turned_image
from segzoo.image_decoder import MAX_PIXELS, SUFFIXES, ImageError
from segzoo.io import check_regular
from segzoo.messages import printable
from segzoo.pixel_format import PixelFormat
from segzoo.types import DataError

HEAD = 4096  # bytes in which a NumPy file states its shape


def read_pixels(paths: Sequence[Path], pixels: PixelFormat, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Read an image upright, with its orientation.

    Args:
        paths: its file, or the files that hold its channels in their order.
        pixels: its channels and bits, see ``channel_decoder.decode_channels``.
        max_pixels: reject larger images before decoding.

    Returns:
        (H, W, C) uint8 or uint16, and the orientation that was applied to the first file, 1 (none) to 8.

    Raises:
        DataError: as for ``image_io.read_image``, or the files hold other channels or bits.
    """
    first = paths[0]
    if len(paths) == 1 and pixels.is_rgb and first.suffix.lower() != NPY_SUFFIX:
        return read_turned_image(first, max_pixels)
    if len(paths) == 1:
        data = read_bytes(first)
        try:
            return decode_channels(data, *pixels, max_pixels)
        except ImageError as error:
            raise DataError(f"{printable(first)}: {error}") from error
    parts = [_read_samples(path, pixels.channels, max_pixels) for path in paths]
    try:
        return join_channels([samples for samples, _ in parts], *pixels), parts[0][1]
    except ImageError as error:
        raise DataError(f"{printable(first)} with {', '.join(printable(path.name) for path in paths[1:])}: {error}") from error


def read_size(path: Path) -> tuple[tuple[int, int], int]:
    """Read the upright size (H, W) of an image and its orientation.

    As ``image_io.read_header``, also for NumPy files.
    """
    if path.suffix.lower() != NPY_SUFFIX:
        return read_header(path)
    try:
        check_regular(path)
        with open(path, "rb") as file:
            shape = npy_shape(file.read(HEAD))
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot be read: {error.strerror}.") from error
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error
    if shape is None or len(shape) < 2:
        raise DataError(f"{printable(path)}: expected a NumPy file of an array (H, W) or (H, W, C).")
    return (shape[0], shape[1]), 1


def image_suffixes(pixels: PixelFormat) -> tuple[str, ...]:
    """Endings of the files that hold such images."""
    return SUFFIXES if pixels.is_rgb else (*SUFFIXES, NPY_SUFFIX)


def _read_samples(path: Path, max_channels: int, max_pixels: int) -> tuple[np.ndarray, int]:
    try:
        return decode_samples(read_bytes(path), max_channels, max_pixels)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error
