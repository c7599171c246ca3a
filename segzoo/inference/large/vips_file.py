"""Reading of PNG, JPEG and TIFF files in strips of rows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from segzoo.registry import ConfigError


class VipsFile:
    """A file that libvips decodes from top to bottom.

    A file that is stored rotated is decoded to a temporary file first, unless it is a tiled TIFF.

    Args:
        path: the file.
        kind: libvips's name of the format, such as ``tiff``.

    Attributes:
        size: upright height and width.
        samples: what a pixel holds, for messages.
        is_supported: whether that is gray, RGB or CMYK of 8 or 16 bits, with or without alpha. Palettes are RGB already.
        is_cmyk: whether it is CMYK.

    Raises:
        ConfigError: pyvips is not installed.
        OSError: the file is damaged.
    """

    def __init__(self, path: Path, kind: str):
        self._vips = _import_vips()
        image = self._load(path, kind, "sequential")
        if image.get_typeof("orientation") and image.get("orientation") > 1:
            image = self._load(path, kind, "random").autorot()
        self._image, self._region = image, self._vips.Region.new(image)
        self.size = image.height, image.width
        self.samples = f"{image.bands} {image.format} samples per pixel ({image.interpretation})"
        self.is_supported = image.format in ("uchar", "ushort") and image.interpretation != "multiband"
        self.is_cmyk = image.interpretation == "cmyk"

    def read(self, first: int, end: int) -> np.ndarray:
        """Read rows (end - first, W, C) of 8 or 16 bits.

        Raises:
            OSError: the file is damaged.
        """
        try:
            data = self._region.fetch(0, first, self._image.width, end - first)
        except self._vips.Error as error:
            raise OSError(str(error)) from error
        kind = np.uint8 if self._image.format == "uchar" else np.uint16
        return np.frombuffer(data, kind).reshape(end - first, self._image.width, -1)

    def _load(self, path: Path, kind: str, access: str) -> Any:
        try:
            return getattr(self._vips.Image, f"{kind}load")(str(path), access=access, fail_on="error")
        except self._vips.Error as error:
            raise OSError(str(error)) from error


def _import_vips() -> ModuleType:
    """Import pyvips, whose cache would keep files open.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyvips  # type: ignore[import-not-found]
    except (ImportError, OSError):  # OSError: without libvips itself
        raise ConfigError('images that are labeled in strips need pyvips: pip install "segzoo[large]"') from None
    pyvips.cache_set_max(0)
    return pyvips
