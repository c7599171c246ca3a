"""Decoding of image files to upright RGB pixels.

It needs only numpy and Pillow, because each exported bundle contains a copy of this file: a bundle and segzoo read images by the same
code. OpenCV, if it is installed, decodes ordinary files to the same pixels in less time. Images are read upright: their orientation
(EXIF and TIFF tag 274) is applied. ``torchvision.io`` is not used, because its PNG decoder has crashed on a damaged file.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

import numpy as np

from segzoo.decoder_warnings import decoder_warnings_ignored

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_PIXELS = 100_000_000
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm")
HINT = "Restore the file from its source, or remove it."
ORIENTATION = 274
_CONVERTED_MODES = ("P", "PA", "LA", "RGBA", "RGBX", "CMYK", "YCbCr")
_SAVE_ARRAY = (
    "python -c 'import numpy, PIL.Image, sys; PIL.Image.fromarray(numpy.load(sys.argv[1]).astype(numpy.uint8)).save(sys.argv[2])'"
)
_OTHER_FILES = (  # how they begin, what they are, and what to do
    *((start, "is a web page, not an image: the download failed. " + HINT) for start in (b"<!doctype", b"<html", b"<head")),
    (b"<svg", "is an SVG drawing. Export it as PNG."),
    (b"<?xml", "is an XML file, such as a web page or an SVG drawing. Export it as PNG."),
    (b"version https://git-lfs", "is a Git LFS pointer, not an image: run `git lfs pull`."),
    (b"\x93numpy", f"is a NumPy array, not an image. Save it as PNG: {_SAVE_ARRAY} OLD.npy NEW.png"),
    (b"%pdf", "is a PDF. Export its pages as PNG."),
    (b"gif8", "is a GIF. Save its frames as PNG."),
    (b"\x1aE\xdf\xa3".lower(), "is a video (Matroska or WebM). Extract its frames: `ffmpeg -i VIDEO %06d.png`."),
)
_SPECIAL_INFO = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}  # Pillow's keys for what may state an orientation


class ImageError(ValueError):
    """Why bytes cannot be read as an image, and what to do."""


class UnknownFormat(ImageError):
    """The bytes are not an image of the expected formats."""


class ImageTooLarge(ImageError):
    """The image has more pixels than allowed."""


def decode_rgb(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, int]:
    """Decode an image to upright RGB.

    Gray becomes three equal channels, palettes are expanded, alpha is dropped, 16-bit samples keep their high byte, and of a file with
    several images the first is read.

    Args:
        data: content of a PNG, JPEG, BMP, TIFF, WebP or PNM file.
        max_pixels: reject larger images before decoding; at most about 178 million (Pillow's own limit).

    Returns:
        (H, W, 3) uint8 and the orientation that was applied, 1 (none) to 8.

    Raises:
        ImageError: this is not an image, it is damaged, truncated or too large, or its samples have neither 8 nor 16 bits.
    """
    image = open_image(data, FORMATS, max_pixels)
    if (pixels := _decode_plain(image, data)) is not None:
        return pixels, 1
    orientation = decode(image)
    return turn_decoded(image, to_rgb(image), orientation), orientation


def open_image(data: bytes, formats: tuple[str, ...], max_pixels: int) -> ImageFile.ImageFile:
    """Open an image without decoding it, and check its size and checksums.

    Raises:
        ImageError: it is not an image of these formats, damaged or too large.
    """
    from PIL import Image

    with decoder_warnings_ignored():  # such as Pillow's own on sizes; max_pixels is the limit here
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as error:
            raise ImageTooLarge(f"{error} Cut it into tiles.") from error
        except Exception as error:  # damaged headers raise SyntaxError, struct.error, IndexError and more
            kind = ImageError if data.startswith((b"\x89PNG", b"\xff\xd8\xff")) else UnknownFormat
            raise kind(_not_an_image(data, formats)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{width}x{height} pixels (W x H) exceed the limit of {max_pixels / 1e6:g} megapixels. Cut it into tiles."
        )
    if image.format == "PNG" and not _is_intact_png(data):  # Pillow silently decodes flipped bits to other pixels
        raise ImageError(f"damaged PNG file of {len(data)} bytes (a checksum does not match, or the end is missing). {HINT}")
    return image


def decode(image: ImageFile.ImageFile) -> int:
    """Decode an opened image in place.

    Returns:
        Its orientation, 1 to 8. Pillow has applied it to a TIFF, and to no other format.

    Raises:
        ImageError: the image is damaged or truncated.
    """
    is_tiff = image.format == "TIFF"
    orientation = stored_orientation(image) if is_tiff else 1  # Pillow drops the tag of a TIFF once it is decoded
    try:
        image.load()
    except Exception as error:  # as above: a damaged file may raise almost anything
        raise ImageError(f"damaged {image.format} file ({error}). {HINT}") from error
    return orientation if is_tiff else stored_orientation(image)  # a PNG may store it behind the pixels


def _decode_plain(image: ImageFile.ImageFile, data: bytes) -> np.ndarray | None:
    """Decode an ordinary 8-bit PNG or JPEG with OpenCV, if installed.

    The pixels are those of Pillow, in half the time for a JPEG and three quarters for a PNG. OpenCV reads truncated files without an
    error, so only files that end as they should are left to it.

    Returns:
        (H, W, 3) uint8, or None if Pillow has to decode the file.
    """
    if image.mode not in ("L", "RGB") or not (_is_plain_png(image, data) or is_plain_jpeg(image, data)):
        return None
    try:
        import cv2
    except ImportError:  # a bundle runs without it
        return None
    flag = (cv2.IMREAD_COLOR if image.mode == "RGB" else cv2.IMREAD_GRAYSCALE) | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if pixels is None or pixels.shape[:2] != image.size[::-1]:
        return None  # damaged: Pillow says how
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels) if image.mode == "RGB" else gray_to_rgb(pixels)


def _is_plain_png(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Check that an opened PNG is opaque, upright and 8-bit."""
    is_opaque = image.format == "PNG" and image.tile[0].args == image.mode and "transparency" not in image.info
    return is_opaque and is_upright_png(image, data)


def is_upright_png(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Check that neither head nor end of a PNG states an orientation."""
    end = data[max(0, data.rfind(b"IDAT")) :]  # Pillow's getexif would decode the image to read what is stored there
    return not _SPECIAL_INFO & image.info.keys() and not any(kind in end for kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"))


def is_plain_jpeg(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Check that an opened JPEG is upright and complete."""
    return image.format == "JPEG" and data.endswith(b"\xff\xd9") and stored_orientation(image) == 1


def turn_decoded(image: Image.Image, pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn the pixels of a decoded image upright, unless Pillow has."""
    return pixels if image.format == "TIFF" else turn_upright(pixels, orientation)


def turn_upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels as an orientation says.

    Args:
        stored: (H, W) or (H, W, C) pixels in the order in which the file stores them.
        orientation: 1 to 8; from 5 to 8 it swaps height and width.
    """
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    row_step = -1 if orientation in (3, 4, 7, 8) else 1
    column_step = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(stored[::row_step, ::column_step])


def stored_orientation(image: Image.Image) -> int:
    """Orientation that the tag of an opened image states, 1 to 8."""
    with decoder_warnings_ignored():
        try:
            value = image.getexif().get(ORIENTATION, 1)
        except Exception:  # unreadable EXIF states no orientation; viewers ignore it too
            return 1
    return value if value in range(1, 9) else 1


def to_rgb(image: Image.Image) -> np.ndarray:
    """Pixels of a decoded image as (H, W, 3) uint8."""
    if image.mode == "RGB":
        return np.array(image)
    if image.mode in ("1", "L"):
        return gray_to_rgb(np.asarray(image.convert("L")))
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        bits = 12 if image.format == "TIFF" and image.tag_v2.get(258) == (12,) else 16  # type: ignore[attr-defined]
        return gray_to_rgb((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode in _CONVERTED_MODES:
        image.info.pop("transparency", None)  # Pillow warns that it is dropped
        return np.array(image.convert("RGB"))
    kind = {"I": "32-bit samples (mode I)", "F": "32-bit samples (mode F)"}.get(image.mode, f"colors of mode {image.mode}")
    raise ImageError(f"holds {kind}; expected gray, RGB, palette or CMYK of 8 or 16 bits. Convert it to 8-bit RGB.")


def gray_to_rgb(gray: np.ndarray) -> np.ndarray:
    """Three equal channels: (H, W) -> (H, W, 3)."""
    pixels = np.empty((*gray.shape, 3), np.uint8)
    pixels[:] = gray[..., None]
    return pixels


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


def _not_an_image(data: bytes, formats: tuple[str, ...]) -> str:
    """Say what unreadable bytes are, and what to do."""
    if not data:
        return f"is empty (0 bytes). {HINT}"
    start = data[:256].lstrip().lower()
    for prefix, meaning in _OTHER_FILES:
        if start.startswith(prefix) and not (prefix == b"gif8" and "GIF" in formats):
            return meaning
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"):
            return "is an HEIC or AVIF image. Convert it to PNG or JPEG."
        return "is a video (MP4 or QuickTime). Extract its frames: `ffmpeg -i VIDEO %06d.png`."
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "is a video (AVI). Extract its frames: `ffmpeg -i VIDEO %06d.png`."
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return f"{_describe_tiff(data)} Convert it to 8-bit RGB."
    if data[:512].decode("utf-8", "ignore").replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return f"is text, not an image: it begins with {data[:8]!r}. Expected {', '.join(formats)}."
    return f"is not a readable image: it begins with {data[:8]!r}, expected {', '.join(formats)}. {HINT}"


def _describe_tiff(data: bytes) -> str:
    """Say which samples a TIFF holds that Pillow cannot open."""
    from PIL import TiffImagePlugin

    try:
        file = io.BytesIO(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if data[2] == 43 or data[3] == 43 else 8))
        file.seek(tags.next)
        tags.load(file)
        kind = {2: "signed integers", 3: "floats"}.get(tags.get(339, (1,))[0], "integers")
        return f"is a TIFF of {len(tags[258])} x {tags[258][0]}-bit {kind} per pixel, which is not supported."
    except Exception:  # damaged tags may raise almost anything
        return "is a damaged TIFF, or of a kind that is not supported."
