"""Image and mask files for the tests of data sets."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from segzoo.registry import DATA

CONF = Path(__file__).parents[2] / "conf"
SPLIT_FOLDERS = ("images/train/{stem}.png", "labels/train/{stem}.png")  # the default patterns of the data set folder


def encode(array: np.ndarray | Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(file, form, **options)
    return file.getvalue()


def save(path: Path, array: np.ndarray | Image.Image, form: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(array, form or {".jpg": "JPEG", ".tif": "TIFF"}.get(path.suffix, "PNG"), **options))
    return path


def noise(height: int = 24, width: int = 31, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int = 40, width: int = 56) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 4, x * 3, (x + y) * 2], axis=-1).astype(np.uint8)


def raw_png(width: int, height: int, bits: int, color: int, rows: list[bytes]) -> bytes:
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def settings_from(name: str, **changed) -> tuple[str, dict]:
    """Name and settings of a data YAML as the tools compose it."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        plain = OmegaConf.to_container(compose(f"data/{name}").data, resolve=True)
    assert isinstance(plain, dict)
    options = {str(key): value for key, value in plain.items()} | changed
    return options.pop("name"), options


def make_pairs(root: Path, images: str, labels: str, stems=("a", "b", "c"), classes: int = 3) -> None:
    for number, stem in enumerate(stems):
        save(root / images.format(stem=stem), noise(6, 8, number))
        save(root / labels.format(stem=stem), np.random.default_rng(number).integers(0, classes, (6, 8), dtype=np.uint8))


def build_folder(root: Path, split: str = "train", **options):
    return DATA.build("folder", split, root=str(root), **{"classes": ("x", "y", "z")} | options)
