"""Check that a bundle reads images to the same pixels as segzoo."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.data.image_io import read_image
from segzoo.image_decoder import ORIENTATION
from segzoo.types import ParityError

_READ_FILES = """
import sys
from pathlib import Path
bundle, folder = sys.argv[1:]
sys.path.insert(0, bundle)
import numpy, predict
numpy.savez(folder + "/pixels.npz", **{path.name: predict.read_image(path) for path in Path(folder).iterdir()})
"""


def check_reader(bundle: Path) -> None:
    """Compare how a bundle and segzoo read one image of each kind.

    The bundle's own ``predict.py`` reads them, in another process.

    Raises:
        ParityError: the pixels of an image differ, or the bundle cannot read it.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = example_images()
        for name, data in images.items():
            (Path(folder) / name).write_bytes(data)
        command = [sys.executable, "-c", _READ_FILES, str(bundle.resolve()), folder]
        process = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if process.returncode:
            raise ParityError(f"the bundle cannot read images: {process.stderr.strip().splitlines()[-1:]}")
        with np.load(Path(folder) / "pixels.npz") as pixels:
            different = [name for name in images if not np.array_equal(pixels[name], read_image(Path(folder) / name))]
    if different:
        raise ParityError(f"the bundle reads {', '.join(different)} to other pixels than segzoo; this is a bug, so it was deleted")


def example_images() -> dict[str, bytes]:
    """Small images of every kind that has been read in two ways.

    Returns:
        File name -> content.
    """
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (12, 20), dtype=np.uint16))
    rgba = Image.fromarray(rng.integers(0, 256, (12, 20, 4), dtype=np.uint8))

    def encode(image: Image.Image, form: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.save(file, form, **options)
        return file.getvalue()

    def turned(form: str, orientation: int) -> bytes:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        return encode(rgb, form, exif=exif)

    return {
        "rgb.png": encode(rgb, "PNG"),
        "rgb.jpg": encode(rgb, "JPEG"),
        "gray.png": encode(rgb.convert("L"), "PNG"),
        "gray_alpha.png": encode(rgba.convert("LA"), "PNG"),
        "1_bit.png": encode(rgb.convert("1"), "PNG"),
        "16_bits.png": encode(deep, "PNG"),
        "16_bits.tif": encode(deep, "TIFF"),
        "alpha.png": encode(rgba, "PNG"),
        "alpha.tif": encode(rgba, "TIFF"),
        "palette.png": encode(rgb.convert("P"), "PNG"),
        "transparent_palette.png": encode(rgb.convert("P"), "PNG", transparency=bytes(range(256))),
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "turned.jpg": turned("JPEG", 6),
        "turned.png": turned("PNG", 3),
        "turned.webp": turned("WEBP", 5),
        "turned.tif": turned("TIFF", 8),
    }
