"""Large images, read in strips, have the ordinary decoder's pixels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import noise, save
from PIL import Image

from segzoo.data.image_io import read_image
from segzoo.inference.large.reader import LargeImage, is_large
from segzoo.registry import ConfigError
from segzoo.types import DataError

pytest.importorskip("pyvips", reason="extra large")
pytest.importorskip("rasterio", reason="extra large")
RGB = noise(150, 131)
GRAY16 = np.random.default_rng(1).integers(0, 65536, (150, 131), np.uint16)


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


PILLOW: dict[str, tuple[Any, dict[str, Any]]] = {  # file -> pixels and options of Pillow
    "rgb.png": (RGB, {}),
    "rgb.jpg": (RGB, {"quality": 90}),
    "striped.tif": (RGB, {"compression": "tiff_lzw"}),
    "big_striped.tif": (RGB, {"big_tiff": True, "compression": "tiff_deflate"}),
    "gray.tif": (RGB[..., 0], {}),
    "gray16.tif": (GRAY16, {}),
    "gray16.png": (GRAY16, {}),
    "palette.tif": (Image.fromarray(RGB).quantize(17), {}),
    "palette.png": (Image.fromarray(RGB).quantize(17), {}),
    "bilevel.tif": (Image.fromarray(RGB).convert("1"), {}),
    "cmyk.tif": (Image.fromarray(RGB).convert("CMYK"), {}),
    "cmyk.jpg": (Image.fromarray(RGB).convert("CMYK"), {}),
    "alpha.png": (np.dstack([RGB, RGB[..., 0]]), {}),
    "rotated.jpg": (RGB, {"exif": orientation(6)}),
    "rotated.tif": (RGB, {"tiffinfo": {274: 8}}),
    "mirrored.png": (RGB, {"exif": orientation(2)}),
}
VIPS: dict[str, dict[str, Any]] = {  # file -> options of libvips
    "tiled.tif": {"tile": True, "tile_width": 64, "tile_height": 32},
    "big_tiled.tif": {"tile": True, "bigtiff": True, "compression": "deflate"},
    "jpeg_tiled.tif": {"tile": True, "compression": "jpeg"},
    "pyramid.tif": {"tile": True, "pyramid": True, "tile_width": 32, "tile_height": 32},
}


def rows_of(path: Path, step: int = 37) -> np.ndarray:
    image = LargeImage(path, 100)
    height = image.size[0]
    strips = [image.rows(first, min(first + step, height)) for first in range(0, height, step)]
    return np.concatenate(strips)


@pytest.mark.parametrize("name", [*PILLOW, *VIPS])
def test_pixels_are_those_of_the_ordinary_decoder(name, tmp_path):
    if name in PILLOW:
        pixels, options = PILLOW[name]
        path = save(tmp_path / name, pixels, **options)
    else:
        import pyvips  # type: ignore[import-not-found]

        path = tmp_path / name
        image = pyvips.Image.new_from_memory(RGB.tobytes(), RGB.shape[1], RGB.shape[0], 3, "uchar")
        image.copy(interpretation="srgb").tiffsave(str(path), **VIPS[name])
    expected, got = read_image(path), rows_of(path)
    assert got.dtype == np.uint8 and got.shape == expected.shape and (got == expected).all()


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("name", ["gray.jp2", "rgb.j2k"])
def test_lossless_jpeg_2000_gives_the_pixels(name, bits, tmp_path):
    from rasterio.io import MemoryFile  # type: ignore[import-not-found]
    from rasterio.shutil import copy  # type: ignore[import-not-found]

    stored = RGB.astype(np.uint16) << (bits - 8) if bits > 8 else RGB
    stored = (stored[..., :1] if name.startswith("gray") else stored).transpose(2, 0, 1)
    options: dict[str, Any] = {"QUALITY": "100", "REVERSIBLE": "YES", "BLOCKXSIZE": 64, "BLOCKYSIZE": 64, "YCBCR420": "NO"}
    if bits == 12:
        options["NBITS"] = 12
    shape = {"count": len(stored), "height": stored.shape[1], "width": stored.shape[2], "dtype": stored.dtype}
    with MemoryFile() as memory, memory.open(driver="GTiff", **shape) as source:
        source.write(stored)
        copy(source, tmp_path / name, driver="JP2OpenJPEG", **options)
    expected = np.repeat(RGB[..., :1], 3, 2) if name.startswith("gray") else RGB
    assert (rows_of(tmp_path / name) == expected).all() and is_large(tmp_path / name, 100)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=rf"{name}: damaged or truncated file \(.*Restore the file"):
        rows_of(tmp_path / name)


@pytest.mark.parametrize("name", ["cut.tif", "tiled.tif", "cut.png", "cut.jpg"])
def test_a_truncated_file_is_an_error(name, tmp_path):
    options = {"tiled.tif": {"compression": "tiff_lzw"}}.get(name, {})
    data = save(tmp_path / name, RGB, **options).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DataError, match=rf"{name}: damaged or truncated file \(.*Restore the file") as error:
        rows_of(tmp_path / name)
    assert "\n" not in str(error.value)


def test_the_limit_names_its_setting(tmp_path):
    path = save(tmp_path / "wide.png", np.zeros((1000, 1100), np.uint8))
    assert LargeImage(path, 2).size == (1000, 1100)
    with pytest.raises(DataError, match=r"wide.png: 1100x1000 pixels \(W x H\) exceed the limit of 1 megapixels.*max_megapixels=2"):
        LargeImage(path, 1)
    assert is_large(path, 1) and not is_large(path, 1.1)


def test_other_files(tmp_path):
    floats = save(tmp_path / "floats.tif", Image.fromarray(np.zeros((40, 40), np.float32)))
    with pytest.raises(DataError, match="floats.tif: holds 1 float samples per pixel .*Convert it to 8-bit RGB"):
        LargeImage(floats, 100)
    webp = save(tmp_path / "image.webp", RGB, "WEBP")
    with pytest.raises(DataError, match="image.webp: begins with b'RIFF.*Save it as TIFF"):
        LargeImage(webp, 100)
    with pytest.raises(DataError, match="missing.tif: cannot be read: No such file"):
        LargeImage(tmp_path / "missing.tif", 100)
    (tmp_path / "text.tif").write_text("not an image")
    assert not is_large(tmp_path / "text.tif", 0.001)


@pytest.mark.parametrize(("package", "name"), [("pyvips", "a.tif"), ("rasterio", "a.jp2")])
def test_a_missing_package_names_the_extra(package, name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"II*\0" if name == "a.tif" else b"\xff\x4f\xff\x51")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'need {package}: pip install "segzoo\[large\]"'):
        LargeImage(tmp_path / name, 100)


@pytest.mark.parametrize(("largest", "unused"), [(4095, True), (4096, False)])
def test_16_bits_that_are_hardly_used_are_noticed(tmp_path, largest, unused):
    pixels = np.zeros((60, 50), np.uint16)
    pixels[40, 7] = largest
    Image.fromarray(pixels).save(tmp_path / "scan.tif")
    image = LargeImage(tmp_path / "scan.tif", 100)
    for first in (0, 30):
        image.rows(first, first + 30)
    assert image.leaves_bits_unused == unused
    Image.new("L", (50, 60)).save(tmp_path / "black.tif")
    black = LargeImage(tmp_path / "black.tif", 100)
    black.rows(0, 60)
    assert not black.leaves_bits_unused
