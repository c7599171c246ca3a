"""Decoding of image files to their stored channels and bits.

It needs only numpy and Pillow, because each exported bundle contains a copy of this file next to that of ``image_decoder``.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segzoo.decoder_warnings import decoder_warnings_ignored
from segzoo.image_decoder import (
    FORMATS,
    HINT,
    MAX_PIXELS,
    ImageError,
    ImageTooLarge,
    decode,
    decode_rgb,
    open_image,
    turn_decoded,
)

if TYPE_CHECKING:
    from PIL import ImageFile

NPY_SUFFIX = ".npy"
_NPY = b"\x93NUMPY"
_MODES = ("L", "LA", "RGB", "RGBA", "RGBX")  # Pillow's modes whose samples of 8 bits are channels
_COLORS_16 = re.compile(r"(?:RGB|RGBA|RGBX);16([BLN])")  # Pillow's raw modes of 16-bit colors, with their byte order
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def decode_channels(data: bytes, channels: int, bits: int, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Decode an image with a number of channels, upright.

    Image files of three channels of 8 bits are decoded by ``decode_rgb``, which converts others. Otherwise samples are returned as they
    are stored, and another number of channels or bits is an error.

    Args:
        data: content of a NumPy file (H, W) or (H, W, C), of a TIFF with one channel on each page, or of another image file.
        channels: expected number of channels.
        bits: expected bits of a sample, 8 or 16.
        max_pixels: reject larger images before decoding.

    Returns:
        (H, W, channels) uint8 or uint16, and the orientation that was applied, 1 (none) to 8.

    Raises:
        ImageError: as ``decode_rgb``, or the file holds other samples.
    """
    if (channels, bits) == (3, 8) and not data.startswith(_NPY):
        return decode_rgb(data, max_pixels)
    samples, orientation = decode_samples(data, channels, max_pixels)
    return join_channels([samples], channels, bits), orientation


def join_channels(parts: Sequence[np.ndarray], channels: int, bits: int) -> np.ndarray:
    """Concatenate the channels of one image, and check them.

    Args:
        parts: (H, W, C) each.
        channels, bits: as for ``decode_channels``.

    Raises:
        ImageError: the parts differ in size, or do not have these channels and bits.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.shape[:2] != first.shape[:2]:
            sizes = " and ".join(f"{one.shape[1]}x{one.shape[0]}" for one in (first, part))
            raise ImageError(f"the channels differ in size: {sizes} pixels (W x H). Resize them to one size.")
    found, dtypes = sum(part.shape[2] for part in parts), {part.dtype for part in parts}
    if found != channels or dtypes != {np.dtype(f"uint{bits}")}:
        depth = " and ".join(sorted(str(8 * dtype.itemsize) for dtype in dtypes))
        hint = f"train with data.channels={found} data.bits={depth}" if len(dtypes) == 1 else "save all channels with the same bits"
        raise ImageError(
            f"holds {found} channel{'' if found == 1 else 's'} of {depth} bits, expected {channels} of {bits} bits, as data.channels and "
            f"data.bits say. Convert it, or {hint}."
        )
    return np.ascontiguousarray(first if len(parts) == 1 else np.concatenate(parts, axis=2))


def decode_samples(data: bytes, max_channels: int, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Decode all channels of a file, upright.

    Args:
        data: as for ``decode_channels``.
        max_channels: reject a TIFF with more pages before decoding.
        max_pixels: reject larger images before decoding.

    Returns:
        (H, W, C) uint8 or uint16, and the orientation that was applied.

    Raises:
        ImageError: as for ``decode_channels``.
    """
    if data.startswith(_NPY):
        return _read_npy(data, max_pixels), 1
    image = open_image(data, FORMATS, max_pixels)
    pages = _count_pages(image) if image.format == "TIFF" else 1
    if pages == 1:
        return _page_samples(data, 0, max_pixels)
    if pages > max_channels:
        raise ImageError(f"holds {pages} pages, expected at most {max_channels}, one for each of data.channels.")
    decoded = [_page_samples(data, page, max_pixels) for page in range(pages)]
    if any(samples.shape != decoded[0][0].shape for samples, _ in decoded):
        raise ImageError("its pages differ in size or channels. Save one channel on each page, all of one size.")
    return np.concatenate([samples for samples, _ in decoded], axis=2), decoded[0][1]


def _count_pages(image: ImageFile.ImageFile) -> int:
    try:
        with decoder_warnings_ignored():
            return getattr(image, "n_frames", 1)
    except Exception as error:  # a damaged file may raise almost anything
        raise ImageError(f"damaged TIFF file ({error}). {HINT}") from error


def npy_shape(data: bytes) -> tuple[int, ...] | None:
    """Read the shape in the head of a NumPy file.

    Returns:
        The shape, or None if the bytes are no NumPy file.

    Raises:
        ImageError: its head is damaged.
    """
    if not data.startswith(_NPY):
        return None
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file)[0]
    except Exception as error:  # of tokenize and others
        raise ImageError(f"damaged NumPy file ({str(error).splitlines()[0]}). {HINT}") from error


def _read_npy(data: bytes, max_pixels: int) -> np.ndarray:
    """Read an array as (H, W, C)."""
    shape = npy_shape(data)
    assert shape is not None
    if len(shape) not in (2, 3) or 0 in shape:
        raise ImageError(f"is an array of shape {shape}, expected (H, W) or (H, W, C).")
    if shape[0] * shape[1] > max_pixels:
        raise ImageTooLarge(f"{shape[1]}x{shape[0]} pixels (W x H) exceed the limit of {max_pixels / 1e6:g} megapixels.")
    if math.prod(shape) > len(data):
        raise ImageError(f"truncated NumPy file: {len(data)} bytes for {math.prod(shape)} samples. {HINT}")
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ImageError(f"damaged or truncated NumPy file ({str(error).splitlines()[0]}). {HINT}") from error
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(
            f"is an array of {array.dtype}, expected uint8 or uint16. Convert it without losing the range of its values."
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array[..., None] if array.ndim == 2 else array


def _page_samples(data: bytes, page: int, max_pixels: int) -> tuple[np.ndarray, int]:
    """Decode one page of a file, and its orientation."""
    image = _open_page(data, page, max_pixels)
    order = _order_of_16_bit_colors(image)
    orientation = decode(image)
    samples = _samples(image)
    if order:  # Pillow keeps the high bytes; those of the other byte order are the low bytes
        low = _open_page(data, page, max_pixels)
        low.tile = [tile._replace(args=_swapped(tile.args or "", order)) for tile in low.tile]
        decode(low)
        samples = samples.astype(np.uint16) << 8 | np.asarray(low)
    return turn_decoded(image, samples[..., None] if samples.ndim == 2 else samples, orientation), orientation


def _open_page(data: bytes, page: int, max_pixels: int) -> ImageFile.ImageFile:
    image = open_image(data, FORMATS, max_pixels)
    if page:
        image.seek(page)
        if image.width * image.height > max_pixels:
            raise ImageTooLarge(f"page {page + 1} has {image.width}x{image.height} pixels (W x H).")
    return image


def _order_of_16_bit_colors(image: ImageFile.ImageFile) -> str:
    """Byte order of 16-bit colors, empty for other samples.

    Raises:
        ImageError: Pillow reads only the high bytes of such samples.
    """
    orders = set()
    for tile in image.tile:
        raw = tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else ""
        match = _COLORS_16.fullmatch(raw) if isinstance(raw, str) else None
        orders.add(match[1] if match else "?" if isinstance(raw, str) and ";16" in raw and not image.mode.startswith("I") else "")
    if len(orders) > 1 or "?" in orders:
        raise ImageError(f"holds 16-bit samples in a layout that is not supported ({image.mode} {image.format}). Save it as .npy.")
    return orders.pop() if orders else ""


def _swapped(args: str | tuple, order: str) -> str | tuple:
    """Arguments of a decoder for the other byte order."""
    if isinstance(args, str):
        return args[:-1] + _OTHER_ORDER[order]
    return (_swapped(args[0], order), *args[1:])


def _samples(image: ImageFile.ImageFile) -> np.ndarray:
    """Samples of a decoded image, (H, W) or (H, W, C)."""
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    if image.mode in _MODES:
        return np.asarray(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return np.asarray(image).astype(np.uint16)
    raise ImageError(
        f"is an image of mode {image.mode}, expected gray, RGB or RGBA of 8 or 16 bits. Save its channels as .npy (H, W, C), or as pages of a "
        "TIFF."
    )
