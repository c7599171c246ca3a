"""Check that a bundle reads images to the same pixels as segzoo."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from segzoo.data.channels.reading import read_pixels
from segzoo.image_decoder import ORIENTATION
from segzoo.pixel_format import RGB, PixelFormat
from segzoo.types import ParityError

_READ_FILES = """
import sys
from pathlib import Path
bundle, folder, channels, bits = sys.argv[1:]
sys.path.insert(0, bundle)
import numpy, predict
pixels = {path.name: predict.read_image(path, channels=int(channels), bits=int(bits)) for path in Path(folder).iterdir()}
numpy.savez(folder + "/pixels.npz", **pixels)
"""


def check_reader(bundle: Path, pixels: PixelFormat = RGB) -> None:
    """Compare how a bundle and segzoo read one image of each kind.

    The bundle's own ``predict.py`` reads them, in another process.

    Args:
        bundle: the ``.zip`` file.
        pixels: channels and bits of the images that its network takes.

    Raises:
        ParityError: the pixels of an image differ, or the bundle cannot read it.
    """
    with tempfile.TemporaryDirectory() as folder:
        images = example_images() if pixels.is_rgb else stored_channels(pixels)
        for name, data in images.items():
            (Path(folder) / name).write_bytes(data)
        command = [sys.executable, "-c", _READ_FILES, str(bundle.resolve()), folder, *map(str, pixels)]
        process = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if process.returncode:
            raise ParityError(f"the bundle cannot read images: {process.stderr.strip().splitlines()[-1:]}")
        with np.load(Path(folder) / "pixels.npz") as read:
            different = [name for name in images if not np.array_equal(read[name], read_pixels([Path(folder) / name], pixels)[0])]
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

    def encode(image: Image.Image, form: str, **options: object) -> bytes:
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


def stored_channels(pixels: PixelFormat) -> dict[str, bytes]:
    """Small images of given channels and bits, in every file format.

    Returns:
        File name -> content.
    """
    import cv2
    from PIL import Image

    samples = np.random.default_rng(0).integers(0, pixels.largest + 1, (12, 20, pixels.channels), dtype=pixels.dtype)
    array, pages = io.BytesIO(), io.BytesIO()
    np.save(array, samples)
    first, *others = (Image.fromarray(np.ascontiguousarray(samples[..., channel])) for channel in range(pixels.channels))
    first.save(pages, "TIFF", save_all=True, append_images=others)
    files = {"array.npy": array.getvalue(), "pages.tif": pages.getvalue()}
    if pixels.channels in (1, 3, 4):
        files["colors.png"] = cv2.imencode(".png", samples)[1].tobytes()
    return files
