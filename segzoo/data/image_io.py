"""Reading of images (OpenCV) and masks (Pillow) into arrays.

Each file is read once, and every failure is a DataError that names the file. ``torchvision.io`` is deliberately not used: its PNG
decoder has crashed the process on a damaged file.
"""

from __future__ import annotations

import io
import os
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segzoo.types import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_PIXELS = 100_000_000
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
MASK_FORMATS = (*IMAGE_FORMATS, "GIF")
JPEG_FORMATS = ("JPEG", "MPO")  # Pillow's names for an opened JPEG
HINT = "Restore the file from its source, or remove it from the data set."
_GRAY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow scales gray PNGs of 2 and 4 bits to 0..255; this undoes it


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB.

    Gray becomes three equal channels, palettes are expanded, alpha is dropped without blending, and 16-bit samples are scaled so that
    65535 becomes 255. The EXIF orientation is ignored, so that image and mask stay aligned as stored.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP or PNM file.
        max_pixels: reject larger images before decoding; at most about 178 million (Pillow's own limit).

    Raises:
        DataError: the file cannot be opened, is not an image, is damaged or truncated, is too large, or holds 32-bit samples.
    """
    import cv2

    data = read_bytes(path)
    header = _open(path, data, IMAGE_FORMATS, max_pixels)
    if header.mode in ("I", "F"):
        raise DataError(
            f"{printable(path)}: holds 32-bit samples (mode {header.mode}); expected 8 or 16 bits. Convert it to 8-bit RGB."
        )
    if header.format in JPEG_FORMATS and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        _decode(path, header)  # OpenCV silently fills the missing part of a truncated JPEG with gray; Pillow raises
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{printable(path)}: damaged {header.format} file of {len(data)} bytes ({error.err}). {HINT}") from error
    if image is None or image.shape[:2] != (header.height, header.width):
        raise DataError(f"{printable(path)}: damaged {header.format} file of {len(data)} bytes; OpenCV cannot decode it. {HINT}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an index mask as (H, W) uint8, uint16 or int32.

    The numbers are palette indices, gray values or 0 and 1, never colors.

    Args:
        path: PNG, BMP, TIFF, PGM or GIF file of mode P, L, 1, I;16 or I.
        max_pixels: reject larger masks before decoding.

    Raises:
        DataError: the file cannot be opened, is not an image, is damaged, is too large, is a JPEG, or holds colors or fractions.
    """
    mask = _open_mask(path, max_pixels)
    step = _gray_step(mask)
    _decode(path, mask)
    if mask.mode in ("L", "P"):
        return np.array(mask) if step == 1 else np.array(mask) // step
    if mask.mode == "1":
        return np.array(mask).astype(np.uint8)
    if mask.mode.startswith("I;16"):
        return np.array(mask).astype(np.uint16)
    if mask.mode == "I":
        return np.array(mask)
    raise DataError(f"{printable(path)}: {_not_an_index_mask(mask)}")


def read_color_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a color mask as (H, W, 3) uint8 RGB.

    Palettes and gray are expanded, and a fully opaque alpha channel is dropped.

    Raises:
        DataError: as for ``read_mask``, except that colors are accepted. Alpha below 255 and samples of more than 8 bits are rejected.
    """
    mask = _open_mask(path, max_pixels)
    _decode(path, mask)
    if mask.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA"):
        raise DataError(f"{printable(path)}: mode {mask.mode} is not a color mask. Save it as 8-bit RGB, or set data.masks=index.")
    if mask.mode in ("RGBA", "LA", "PA") and (lowest := int(np.array(mask.getchannel("A")).min())) < 255:
        raise DataError(
            f"{printable(path)}: holds transparent pixels (alpha down to {lowest}), whose color is undefined. Save it as RGB."
        )
    return np.array(mask.convert("RGB"))


def count_colors(colors: np.ndarray) -> list[tuple[tuple[int, int, int], int]]:
    """Count the colors of an (H, W, 3) array, most frequent first."""
    codes, counts = np.unique(color_codes(colors), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [((int(c) >> 16, int(c) >> 8 & 255, int(c) & 255), int(n)) for c, n in zip(codes[order], counts[order], strict=True)]


def color_codes(colors: np.ndarray) -> np.ndarray:
    """Encode colors as 24-bit numbers: (..., 3) uint8 RGB -> (...) int32."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def printable(path: str | Path) -> str:
    """Printable form of a path that may not be valid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_bytes(path: str | Path) -> bytes:
    """Read a file.

    Raises:
        DataError: it cannot be opened; the message says why.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if os.path.islink(path) and not os.path.exists(path):
            reason = f"a link to {printable(os.readlink(path))}, which does not exist or cannot be followed ({reason})"
        raise DataError(f"{printable(path)}: cannot be read: {reason}. {HINT}") from error


def _open_mask(path: str | Path, max_pixels: int) -> ImageFile.ImageFile:
    data = read_bytes(path)
    mask = _open(path, data, MASK_FORMATS, max_pixels)
    if mask.format == "PNG" and not _is_intact_png(data):  # Pillow silently decodes flipped bits to wrong labels
        raise DataError(
            f"{printable(path)}: damaged PNG file of {len(data)} bytes (a checksum does not match, or the end is missing). {HINT}"
        )
    if mask.format in JPEG_FORMATS:
        raise DataError(
            f"{printable(path)}: a JPEG cannot store labels: its compression changes their values. Export the masks as PNG from their source."
        )
    return mask


def _is_intact_png(data: bytes) -> bool:
    """Verify the checksums of a PNG's critical chunks up to IEND."""
    view, position = memoryview(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(view[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        if kind[:1].isupper() and zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        if kind == b"IEND":
            return True
        position = end + 4
    return False


def _open(path: str | Path, data: bytes, formats: tuple[str, ...], max_pixels: int) -> ImageFile.ImageFile:
    """Open an image without decoding it, and check its size."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning; max_pixels is the limit here
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as error:
            raise DataError(f"{printable(path)}: {error} Cut it into tiles.") from error
        except Exception as error:  # damaged headers raise SyntaxError, struct.error, IndexError and more
            raise DataError(f"{printable(path)}: {_not_an_image(data, formats)} {HINT}") from error
    width, height = image.size
    if width * height > max_pixels:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise DataError(f"{printable(path)}: {width}x{height} pixels (W x H) exceed the limit of {limit}. Cut it into tiles.")
    return image


def _decode(path: str | Path, image: Image.Image) -> None:
    """Decode an opened image in place."""
    try:
        image.load()
    except Exception as error:  # as above: a damaged file may raise almost anything
        raise DataError(f"{printable(path)}: damaged {image.format} file ({error}). {HINT}") from error


def _gray_step(mask: ImageFile.ImageFile) -> int:
    """Factor by which Pillow scales the gray values of an opened mask.

    It is 1 unless the mask has 2 or 4 bits.
    """
    if not mask.tile:
        return 1
    args = mask.tile[0][3]
    rawmode = args[0] if isinstance(args, tuple) and args else args
    return _GRAY_STEPS.get(rawmode, 1) if isinstance(rawmode, str) else 1


def _not_an_image(data: bytes, formats: tuple[str, ...]) -> str:
    start = data[:256].lstrip().lower()
    if not data:
        return "is empty (0 bytes)."
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not an image: the download failed."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image: run `git lfs pull`."
    return f"is not a readable image: it begins with {data[:8]!r}, expected {', '.join(formats)}."


def _not_an_index_mask(mask: Image.Image) -> str:
    """Explain why an image is not an index mask, with a fix."""
    if mask.mode == "F":
        return "holds fractions (32-bit float), not class ids. Save it with integers, as 8- or 16-bit PNG."
    colors = count_colors(np.array(mask.convert("RGB")))
    listed = ", ".join(str(list(color)) for color, _ in colors[:8]) + (", ..." if len(colors) > 8 else "")
    problem = (
        f"is an image of mode {mask.mode} with {len(colors)} colors ({listed}), expected one number per pixel (mode P, L or I;16)."
    )
    if len(colors) > 1000:
        return f"{problem} These are too many colors for labels: is it a photograph, or was the mask smoothed or blended?"
    if all(red == green == blue for (red, green, blue), _ in colors):
        return f"{problem} It is gray stored as {mask.mode}: save it with one channel, `Image.open(path).convert('RGB').getchannel(0)`."
    return f"{problem} If the colors encode classes, set data.masks=color and give data.palette one [R, G, B] per class."
