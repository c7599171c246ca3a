"""Reading of JPEG 2000 files in strips of rows.

GDAL does it by OpenJPEG. The libvips of ``pyvips-binary`` has none, and Pillow and imagecodecs decode only whole files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.decoder_warnings import decoder_warnings_ignored
from segzoo.registry import ConfigError


class Jp2File:
    """A JPEG 2000 file.

    GDAL keeps decoded tiles in a cache of limited size, so tiles of the file are decoded once.

    Args:
        path: the file.

    Attributes:
        size: height and width.
        samples: what a pixel holds, for messages.
        is_supported: whether the samples are unsigned integers of 8 to 16 bits in one to four channels.
        is_cmyk: False, since JPEG 2000 files are gray or RGB here.

    Raises:
        ConfigError: rasterio is not installed.
        OSError: the file is damaged, or of another format.
    """

    is_cmyk = False

    def __init__(self, path: Path):
        try:
            import rasterio  # type: ignore[import-not-found]
        except ImportError as error:
            raise ConfigError(f'JPEG 2000 files need {error.name}: pip install "segzoo[large]"') from None
        self._one_thread = partial(rasterio.Env, GDAL_NUM_THREADS="1")  # errors in GDAL's own threads are printed, not raised
        with decoder_warnings_ignored(), self._one_thread():  # rasterio's on a missing georeference
            self._file: Any = rasterio.open(path.resolve(), driver="JP2OpenJPEG")
        self.size = self._file.height, self._file.width
        kinds, self._colors = set(self._file.dtypes), _palette(self._file)
        bits = self._file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
        self._shift = 16 - int(bits) if bits and kinds == {"uint16"} else 0
        self.samples = f"{self._file.count} {'/'.join(sorted(kinds))} samples per pixel"
        self.is_supported = kinds in ({"uint8"}, {"uint16"}) and self._file.count <= 4

    def read(self, first: int, end: int) -> np.ndarray:
        """Read rows (end - first, W, C) of 8 or 16 bits.

        Raises:
            OSError: the file is damaged.
        """
        with self._one_thread():
            samples = self._file.read(window=((first, end), (0, self.size[1]))).transpose(1, 2, 0)
        return samples << self._shift if self._colors is None else self._colors[samples[..., 0]]


def _palette(file: Any) -> np.ndarray | None:
    """Colors (256, 3) of a file with a palette."""
    if file.colorinterp[0].name != "palette":
        return None
    colors = file.colormap(1)
    return np.array([colors.get(index, (0, 0, 0))[:3] for index in range(256)], np.uint8)
