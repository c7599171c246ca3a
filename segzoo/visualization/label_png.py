"""Label maps as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segzoo.io import write_atomically
from segzoo.visualization.drawing import IGNORED
from segzoo.visualization.palette import Color


def write_label_png(path: Path, label: np.ndarray, palette: Sequence[Color] | None) -> None:
    """Write (H, W) class ids as a PNG, creating its folder.

    With a palette of up to 256 colors, it is a palette PNG in these colors, and white in ids that have none. Without one it is an 8-bit
    grayscale PNG, and above 256 classes a 16-bit one.
    """
    from PIL import Image

    if palette is not None and len(palette) > 256:
        png = Image.fromarray(label.astype(np.uint16))
    elif palette is None:
        png = Image.fromarray(label.astype(np.uint8))
    else:
        png = Image.frombytes("P", (label.shape[1], label.shape[0]), label.astype(np.uint8).tobytes())
        png.putpalette([channel for color in [*palette, *[IGNORED] * (256 - len(palette))] for channel in color])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: png.save(file, "PNG"), durable=False)
