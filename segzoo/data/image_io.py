"""Files to arrays: images with OpenCV, masks with Pillow, each file read once; every failure is a DataError naming the file.

``torchvision.io`` is not used on purpose: its PNG decoder has been seen to kill the process on a damaged file.
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
JPEGS = ("JPEG", "MPO")  # what Pillow calls them once opened
HINT = "Restore the file from its source, or take it out of the data set."
_GRAY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads gray PNGs of 2 and 4 bits over 0..255; ids are wanted back


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image as (H, W, 3) uint8 RGB.

    Gray becomes three equal channels, palettes are expanded, alpha is dropped (the color below it counts), 16 bits are scaled so
    that 65535 becomes 255. The EXIF turn is ignored, so that image and mask stay aligned as stored.

    Args:
        path: PNG, JPEG, BMP, TIFF, WebP or PNM file.
        max_pixels: reject larger images before decoding; at most about 178 million (Pillow's own limit).

    Raises:
        DataError: the file cannot be opened, is no image, is damaged or cut short, is too large, or holds 32-bit samples.
    """
    import cv2

    data = read_bytes(path)
    header = _header(path, data, IMAGE_FORMATS, max_pixels)
    if header.mode in ("I", "F"):
        raise DataError(
            f"{printable(path)}: holds 32-bit samples (mode {header.mode}); wanted 8 or 16 bits. Convert it to 8-bit RGB."
        )
    if header.format in JPEGS and not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        _decode(path, header)  # OpenCV fills the missing part of a cut JPEG with gray; Pillow tells
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise DataError(f"{printable(path)}: damaged {header.format} file of {len(data)} bytes ({error.err}). {HINT}") from error
    if image is None or image.shape[:2] != (header.height, header.width):
        raise DataError(f"{printable(path)}: damaged {header.format} file of {len(data)} bytes; OpenCV cannot decode it. {HINT}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_mask(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The numbers of an index mask as (H, W) uint8, uint16 or int32: palette indices, gray values or 0 and 1, never colors.

    Args:
        path: PNG, BMP, TIFF, PGM or GIF file of mode P, L, 1, I;16 or I.
        max_pixels: reject larger masks before decoding.

    Raises:
        DataError: the file cannot be opened, is no image, is damaged, is too large, is a JPEG, or holds colors or fractions.
    """
    mask = _mask(path, max_pixels)
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
    """A color mask as (H, W, 3) uint8 RGB; palettes and gray are expanded, a fully opaque alpha channel is dropped.

    Raises:
        DataError: as ``read_mask``, but for colors; and where alpha is below 255 or samples have more than 8 bits.
    """
    mask = _mask(path, max_pixels)
    _decode(path, mask)
    if mask.mode not in ("1", "L", "P", "RGB", "RGBA", "LA", "PA"):
        raise DataError(f"{printable(path)}: mode {mask.mode} is no color mask. Save it as 8-bit RGB, or set data.masks=index.")
    if mask.mode in ("RGBA", "LA", "PA") and (lowest := int(np.array(mask.getchannel("A")).min())) < 255:
        raise DataError(
            f"{printable(path)}: holds see-through pixels (alpha down to {lowest}), whose color means nothing. Save it as RGB."
        )
    return np.array(mask.convert("RGB"))


def count_colors(colors: np.ndarray) -> list[tuple[tuple[int, int, int], int]]:
    """The colors of an (H, W, 3) array with their pixel counts, most frequent first."""
    codes, counts = np.unique(color_codes(colors), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [((int(c) >> 16, int(c) >> 8 & 255, int(c) & 255), int(n)) for c, n in zip(codes[order], counts[order], strict=True)]


def color_codes(colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB -> (...) int32, the 24-bit number of each color."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def printable(path: str | Path) -> str:
    """A path as printable text, also where its bytes are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file. Raises DataError if it cannot be opened, saying why."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if os.path.islink(path) and not os.path.exists(path):
            reason = f"a link to {printable(os.readlink(path))}, which cannot be reached ({reason})"
        raise DataError(f"{printable(path)}: cannot be read: {reason}. {HINT}") from error


def _mask(path: str | Path, max_pixels: int) -> ImageFile.ImageFile:
    data = read_bytes(path)
    mask = _header(path, data, MASK_FORMATS, max_pixels)
    if mask.format == "PNG" and not _whole_png(data):  # Pillow decodes flipped bits to other labels without a word
        raise DataError(
            f"{printable(path)}: damaged PNG file of {len(data)} bytes (a checksum does not match, or its end is missing). {HINT}"
        )
    if mask.format in JPEGS:
        raise DataError(
            f"{printable(path)}: a JPEG cannot hold labels: compression blurs their values. Save the masks as PNG from their source."
        )
    return mask


def _whole_png(data: bytes) -> bool:
    """Whether every critical chunk of a PNG matches its checksum, up to its end mark."""
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


def _header(path: str | Path, data: bytes, formats: tuple[str, ...], max_pixels: int) -> ImageFile.ImageFile:
    """The image opened but not decoded, its size checked."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning; the limit here is max_pixels
        try:
            picture = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as error:
            raise DataError(f"{printable(path)}: {error} Cut it into tiles.") from error
        except Exception as error:  # damaged headers raise SyntaxError, struct.error, IndexError and more
            raise DataError(f"{printable(path)}: {_not_an_image(data, formats)} {HINT}") from error
    width, height = picture.size
    if width * height > max_pixels:
        limit = f"{max_pixels / 1e6:g} megapixels"
        raise DataError(
            f"{printable(path)}: {width}x{height} pixels (W x H) are more than the limit of {limit}. Cut it into tiles."
        )
    return picture


def _decode(path: str | Path, picture: Image.Image) -> None:
    """Decodes in place, once the header was accepted."""
    try:
        picture.load()
    except Exception as error:  # as above: a damaged file may raise nearly anything
        raise DataError(f"{printable(path)}: damaged {picture.format} file ({error}). {HINT}") from error


def _gray_step(mask: ImageFile.ImageFile) -> int:
    """By how much Pillow spreads the gray values of an opened mask: 1 unless it has 2 or 4 bits."""
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
        return "is a web page, not an image: its download has failed."
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not an image: run `git lfs pull`."
    return f"is no readable image: begins with {data[:8]!r}, wanted {', '.join(formats)}."


def _not_an_index_mask(mask: Image.Image) -> str:
    """Why a decoded image is no index mask, and what to do."""
    if mask.mode == "F":
        return "holds fractions (32-bit float), not class ids. Save it with whole numbers, as 8- or 16-bit PNG."
    colors = count_colors(np.array(mask.convert("RGB")))
    listed = ", ".join(str(list(color)) for color, _ in colors[:8]) + (", ..." if len(colors) > 8 else "")
    came = f"is an image of mode {mask.mode} with {len(colors)} colors ({listed}), wanted one number a pixel (mode P, L or I;16)."
    if len(colors) > 1000:
        return f"{came} So many colors are no labels: is it a photograph, or was the mask smoothed or blended?"
    if all(red == green == blue for (red, green, blue), _ in colors):
        return (
            f"{came} It is gray stored as {mask.mode}: save it with one channel, `Image.open(path).convert('RGB').getchannel(0)`."
        )
    return f"{came} If the colors stand for classes, set data.masks=color and give data.palette one [R, G, B] a class."
