"""Reading of images that are too large to hold.

PNG, JPEG, TIFF (also BigTIFF, tiled or in strips) and JPEG 2000 files are decoded as rows are requested, so memory does not depend
on the height of the image. Interlaced PNG and progressive JPEG are exceptions: their decoders hold the whole image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segzoo.data.channels.reading import read_pixels
from segzoo.data.channels.sample_bits import DARK
from segzoo.data.image_io import read_header
from segzoo.decoder_warnings import decoder_warnings_ignored
from segzoo.image_decoder import FORMATS, HINT, MAX_PIXELS, gray_to_rgb
from segzoo.inference.large.jp2_file import Jp2File
from segzoo.inference.large.vips_file import VipsFile
from segzoo.io import check_regular
from segzoo.messages import format_override, printable
from segzoo.pixel_format import RGB
from segzoo.types import DataError

JP2_SUFFIXES = (".jp2", ".j2k", ".jpx", ".j2c", ".jpf")
_KINDS = (  # how files begin, and their format
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  ", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),  # without a container
)


def is_large(path: Path, megapixels: float) -> bool:
    """Check whether an image has to be read by ``LargeImage``.

    JPEG 2000 always has. A file that cannot be opened has not: the ordinary decoder says what it is.
    """
    from PIL import Image

    if path.suffix.lower() in JP2_SUFFIXES:
        return True
    try:
        check_regular(path)
        with decoder_warnings_ignored(), Image.open(path, formats=FORMATS) as header:
            return header.width * header.height > megapixels * 1e6
    except Image.DecompressionBombError:  # above Pillow's own limit of 178 megapixels
        return True
    except Exception:  # damaged headers raise SyntaxError, struct.error, IndexError and more
        return False


def read_or_open(path: Path, stream_megapixels: float, max_megapixels: int) -> np.ndarray | LargeImage:
    """Read an image, or open a large one.

    Args:
        path: the file.
        stream_megapixels: larger images are opened, since they are not to be held as a whole.
        max_megapixels: larger images are rejected.

    Raises:
        ConfigError, DataError: as for ``read_image`` and ``LargeImage``.
    """
    if not is_large(path, min(stream_megapixels, MAX_PIXELS / 1e6)):
        if is_large(path, max_megapixels):
            raise _too_large(path, read_header(path)[0], max_megapixels)
        return read_pixels([path], RGB)[0]
    image = LargeImage(path, max_megapixels)
    height, width = image.size
    return image if height * width > stream_megapixels * 1e6 else image.rows(0, height)


def _too_large(path: Path, size: tuple[int, int], max_megapixels: int) -> DataError:
    height, width = size
    return DataError(
        f"{printable(path)}: {width}x{height} pixels (W x H) exceed the limit of {max_megapixels} megapixels. If the file is what you expect, "
        f"set {format_override('max_megapixels', -(-height * width // 1_000_000))}."
    )


class LargeImage:
    """An image whose upright rows are read from top to bottom.

    Pixels are converted as by ``image_decoder.decode_rgb``.

    Args:
        path: a PNG, JPEG, TIFF or JPEG 2000 file.
        max_megapixels: reject larger images before decoding.

    Attributes:
        size: upright height and width.

    Raises:
        ConfigError: the package that reads it is not installed.
        DataError: the file cannot be opened, is of another format, is damaged, is too large, or holds other samples.
    """

    def __init__(self, path: Path, max_megapixels: int):
        self.path = path
        self._largest: int | None = None  # of the high bytes of 16-bit samples
        kind = self._kind()
        try:
            self._file = Jp2File(path) if kind == "jp2" else VipsFile(path, kind)
        except OSError as error:
            raise self._damaged(error) from error
        height, width = self.size = self._file.size
        if height * width > max_megapixels * 1_000_000:
            raise _too_large(path, self.size, max_megapixels)
        if not self._file.is_supported:
            raise DataError(
                f"{printable(path)}: holds {self._file.samples}; expected gray, RGB, palette or CMYK of 8 or 16 bits. Convert it to 8-bit RGB."
            )

    def rows(self, first: int, end: int) -> np.ndarray:
        """Read rows, which may not lie above those of earlier calls.

        Shapes:
            -> (end - first, W, 3) uint8

        Raises:
            DataError: the file is damaged or truncated.
        """
        assert 0 <= first < end <= self.size[0], f"rows {first} to {end} of {self.size[0]}"
        try:
            samples = self._file.read(first, end)
        except OSError as error:
            raise self._damaged(error) from error
        rows = _to_rgb(samples, self._file.is_cmyk)
        if samples.dtype == np.uint16:
            self._largest = max(self._largest or 0, int(rows.max()))
        return rows

    @property
    def leaves_bits_unused(self) -> bool:
        """True if the rows so far hardly use their 16 bits."""
        return self._largest is not None and self._largest < DARK

    def _kind(self) -> str:
        """Recognize the format by the first bytes."""
        try:
            with open(self.path, "rb") as file:
                start = file.read(12)
        except OSError as error:
            raise DataError(f"{printable(self.path)}: cannot be read: {error.strerror}. {HINT}") from error
        for prefix, kind in _KINDS:
            if start.startswith(prefix):
                return kind
        raise DataError(
            f"{printable(self.path)}: begins with {start[:8]!r}; images of this size are read from PNG, JPEG, TIFF and JPEG 2000. Save it as "
            "TIFF."
        )

    def _damaged(self, error: OSError) -> DataError:
        reason = " ".join(str(error).split())[:200]
        return DataError(f"{printable(self.path)}: damaged or truncated file ({reason}). {HINT}")


def _to_rgb(samples: np.ndarray, is_cmyk: bool) -> np.ndarray:
    """Convert samples of 8 or 16 bits to 8-bit RGB.

    Of 16 bits the high byte is kept, and alpha is dropped.

    Shapes:
        (H, W, C) -> (H, W, 3) uint8
    """
    if samples.dtype == np.uint16:
        samples = (samples >> 8).astype(np.uint8)
    if is_cmyk:
        from PIL import Image

        inks = Image.frombytes("CMYK", samples.shape[1::-1], samples[..., :4].tobytes())
        return np.array(inks.convert("RGB"))
    return gray_to_rgb(samples[..., 0]) if samples.shape[2] < 3 else np.ascontiguousarray(samples[..., :3])
