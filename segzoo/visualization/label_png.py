"""Label maps as PNG files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from segzoo.io import write_atomically
from segzoo.visualization.drawing import IGNORED
from segzoo.visualization.palette import Color
from segzoo.visualization.png_rows import PngRows


def write_label_png(path: Path, label: np.ndarray, palette: Sequence[Color] | None) -> None:
    """Write (H, W) class ids as a PNG, creating its folder."""
    data = encode_label_png(label, palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(data), durable=False)


def encode_label_png(label: np.ndarray, palette: Sequence[Color] | None) -> bytes:
    """Encode (H, W) class ids as a PNG.

    With a palette of up to 256 colors, it is a palette PNG in these colors, and white in ids that have none. Without one it is an 8-bit
    grayscale PNG, and above 256 classes a 16-bit one.
    """
    file = io.BytesIO()
    png = open_label_png(file, label.shape, palette)
    png.write(label)
    png.close()
    return file.getvalue()


def open_label_png(file: BinaryIO, size: Sequence[int], palette: Sequence[Color] | None) -> PngRows:
    """Begin a PNG like that of ``encode_label_png``."""
    if palette is not None and len(palette) > 256:
        return PngRows(file, size, None, bits=16)
    return PngRows(file, size, palette and [*palette, *[IGNORED] * (256 - len(palette))])


def encode_png(pixels: np.ndarray, palette: Sequence[Color] | None = None) -> bytes:
    """Encode an index map or a gray image.

    Args:
        pixels: (H, W) uint8 or uint16.
        palette: RGB of each value of uint8. None means gray.
    """
    file = io.BytesIO()
    png = PngRows(file, pixels.shape, palette, bits=8 * pixels.itemsize)
    png.write(pixels)
    png.close()
    return file.getvalue()
