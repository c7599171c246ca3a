"""Reading of image and mask files into upright arrays.

Each file is read once, and every failure is a DataError that names the file. Images and masks are turned as their own orientation tag
says, see ``image_decoder``; ``masks.labels_are_upright`` relates labels to the turned image.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from segzoo.decoder_warnings import decoder_warnings_ignored
from segzoo.image_decoder import (
    FORMATS,
    HINT,
    MAX_PIXELS,
    ImageError,
    decode,
    decode_rgb,
    is_upright_png,
    open_image,
    stored_orientation,
    turn_decoded,
)
from segzoo.io import check_regular
from segzoo.messages import printable
from segzoo.types import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MASK_FORMATS = (*FORMATS, "GIF")
JPEG_FORMATS = ("JPEG", "MPO")  # Pillow's names for an opened JPEG
_GRAY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow scales gray PNGs of 2 and 4 bits to 0..255; this undoes it


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image upright as (H, W, 3) uint8 RGB.

    ``image_decoder.decode_rgb`` describes the conversion of other modes.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP or PNM file.
        max_pixels: reject larger images before decoding; at most about 178 million (Pillow's own limit).

    Raises:
        DataError: the file cannot be opened, is not an image, is damaged or truncated, is too large, or holds 32-bit samples.
    """
    return read_turned_image(path, max_pixels)[0]


def read_turned_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Read an image as ``read_image`` does, with its orientation.

    Returns:
        The upright image and the orientation that was applied to it, 1 (none) to 8.
    """
    try:
        return decode_rgb(read_bytes(path), max_pixels)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error


def read_header(path: str | Path) -> tuple[tuple[int, int], int]:
    """Read the upright size (H, W) of an image and its orientation.

    The image is not decoded. It takes about 0.1 ms.

    Raises:
        DataError: as for ``read_image``, as far as the head of the file tells.
    """
    from PIL import Image

    try:
        check_regular(path)
        with decoder_warnings_ignored(), open(path, "rb") as file, Image.open(file, formats=FORMATS) as header:
            width, height = header.size
            is_upright = header.format == "PNG" and is_upright_png(header, _tail(file))
            orientation = 1 if is_upright else stored_orientation(header)  # which decodes a PNG that states none
            is_certain = width * height <= MAX_PIXELS and (orientation < 5 or header.format != "TIFF")  # Pillow may have turned it
    except Exception:  # damaged headers raise SyntaxError, struct.error, IndexError and more
        is_certain, orientation = False, 1
    if not is_certain:
        image, orientation = read_turned_image(path)
        return (image.shape[0], image.shape[1]), orientation
    return ((width, height) if orientation >= 5 else (height, width)), orientation


def _tail(file: BinaryIO, size: int = 1 << 16) -> bytes:
    """Last bytes of a file, where a PNG may store its orientation."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - size))
    return file.read()


def read_orientation(path: str | Path) -> int:
    """Read the orientation tag of a mask file, 1 to 8."""
    return _decode(path, _open(path, MAX_PIXELS))


class ColorMaskError(DataError):
    """A mask that stores colors where numbers are expected.

    Attributes:
        colors: its colors with their numbers of pixels, most frequent first.
    """

    colors: list[tuple[tuple[int, int, int], int]]


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an index mask upright as (H, W) uint8, uint16 or int32.

    The numbers are palette indices, gray values or 0 and 1, never colors.

    Args:
        path: PNG, BMP, TIFF, PGM or GIF file of mode P, L, 1, I;16 or I.
        max_pixels: reject larger masks before decoding.

    Raises:
        DataError: the file cannot be opened, is not an image, is damaged, is too large, is a JPEG, or holds colors or fractions.
    """
    return read_palette_mask(path, max_pixels)[0]


def read_palette_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray | None]:
    """Read an index mask as ``read_mask`` does, with its palette.

    Returns:
        The numbers, and the palette (n, 3) uint8 RGB, which is None for a mask without one.
    """
    mask = _open_mask(path, max_pixels)
    samples, *limits = _tile_args(mask)
    if mask.format == "PPM" and limits and limits[0] not in (255, 65535):  # Pillow would scale the numbers to these
        raise DataError(
            f"{printable(path)}: a PGM with a largest value of {limits[0]}, expected 255 or 65535. Save the numbers as PNG."
        )
    step = _GRAY_STEPS.get(samples, 1)
    orientation = _decode(path, mask)
    dtypes = {"L": np.uint8, "P": np.uint8, "1": np.uint8, "I": np.int32}
    dtype = np.uint16 if mask.mode.startswith("I;16") else dtypes.get(mask.mode)
    if dtype is None:
        raise _index_mask_error(path, mask)
    numbers = np.array(mask).astype(dtype, copy=False)
    palette = np.array(mask.getpalette("RGB"), np.uint8).reshape(-1, 3) if mask.mode == "P" else None
    return turn_decoded(mask, numbers if step == 1 else numbers // step, orientation), palette


def read_color_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a color mask upright.

    Palettes and gray are expanded.

    Returns:
        (H, W, 3) uint8 RGB, and (H, W) bool where pixels are fully transparent, or None if none is.

    Raises:
        DataError: as for ``read_mask``, except that colors are accepted. Half transparent pixels and samples of more than 8 bits are
            rejected.
    """
    mask = _open_mask(path, max_pixels)
    if ";16" in str(_tile_args(mask)[0]):  # Pillow would keep the high bytes, so that two colors could become one
        raise DataError(f"{printable(path)}: has 16 bits per sample, but the colors of a palette have 8. Save it as 8-bit RGB.")
    orientation = _decode(path, mask)
    if mask.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA"):
        raise DataError(f"{printable(path)}: mode {mask.mode} is not a color mask. Save it as 8-bit RGB, or set data.masks=index.")
    if mask.mode not in ("RGBA", "LA", "PA") and "transparency" not in mask.info:
        return turn_decoded(mask, np.array(mask.convert("RGB")), orientation), None
    pixels = turn_decoded(mask, np.array(mask.convert("RGBA")), orientation)
    colors, alpha = np.ascontiguousarray(pixels[..., :3]), pixels[..., 3]
    if partly := int(np.count_nonzero((alpha > 0) & (alpha < 255))):
        raise DataError(
            f"{printable(path)}: {partly} pixels are half transparent, so their color is undefined. Save it as RGB without smoothing."
        )
    return colors, (alpha == 0 if (alpha == 0).any() else None)


def count_colors(colors: np.ndarray) -> list[tuple[tuple[int, int, int], int]]:
    """Count the colors of an (H, W, 3) array, most frequent first."""
    codes, counts = np.unique(color_codes(colors), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [((int(c) >> 16, int(c) >> 8 & 255, int(c) & 255), int(n)) for c, n in zip(codes[order], counts[order], strict=True)]


def color_codes(colors: np.ndarray) -> np.ndarray:
    """Encode colors as 24-bit numbers: (..., 3) uint8 RGB -> (...) int32."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def read_bytes(path: str | Path) -> bytes:
    """Read a file.

    Raises:
        DataError: it cannot be opened; the message says why.
    """
    try:
        check_regular(path)
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if os.path.islink(path) and not os.path.exists(path):
            reason = f"a link to {printable(os.readlink(path))}, which does not exist or cannot be followed ({reason})"
        raise DataError(f"{printable(path)}: cannot be read: {reason}. {HINT}") from error


def _open_mask(path: str | Path, max_pixels: int) -> ImageFile.ImageFile:
    mask = _open(path, max_pixels)
    if mask.format in JPEG_FORMATS:
        raise DataError(
            f"{printable(path)}: a JPEG cannot store labels: its compression changes their values. Export the masks as PNG from their source."
        )
    return mask


def _open(path: str | Path, max_pixels: int) -> ImageFile.ImageFile:
    try:
        return open_image(read_bytes(path), MASK_FORMATS, max_pixels)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error


def _decode(path: str | Path, image: ImageFile.ImageFile) -> int:
    """Decode an opened mask in place, and return its orientation."""
    try:
        return decode(image)
    except ImageError as error:
        raise DataError(f"{printable(path)}: {error}") from error


def _tile_args(mask: ImageFile.ImageFile) -> tuple[Any, ...]:
    """Arguments of Pillow's decoder, of which the first names the samples."""
    args = mask.tile[0].args if mask.tile else ""
    return args if isinstance(args, tuple) and args else (args,)


def _index_mask_error(path: str | Path, mask: Image.Image) -> DataError:
    """Explain why an image is not an index mask, with a fix."""
    if mask.mode == "F":
        return DataError(f"{printable(path)}: holds fractions (32-bit float), not class ids. Save it as 8- or 16-bit PNG.")
    colors = count_colors(np.array(mask.convert("RGB")))
    listed = ", ".join(str(list(color)) for color, _ in colors[:8]) + (", ..." if len(colors) > 8 else "")
    problem = (
        f"{printable(path)}: is an image of mode {mask.mode} with {len(colors)} colors ({listed}), expected one number per pixel (mode P, "
        "L or I;16)."
    )
    if len(colors) > 1000:
        return DataError(
            f"{problem} These are too many colors for labels: is it a photograph, or was the mask smoothed or blended?"
        )
    if all(red == green == blue for (red, green, blue), _ in colors):
        fix = f"It is gray stored as {mask.mode}: save it with one channel, `Image.open(path).convert('RGB').getchannel(0)`."
    else:
        fix = "If the colors encode classes, set data.masks=color and give data.palette one [R, G, B] per class."
    error = ColorMaskError(f"{problem} {fix}")
    error.colors = colors
    return error
