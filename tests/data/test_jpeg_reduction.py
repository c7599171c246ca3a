"""JPEG images decoded at a fraction of their size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segzoo.data.image_io import read_image
from segzoo.data.jpeg_reduction import largest_reduction, read_reduced
from segzoo.data.loader import train_batches
from segzoo.registry import AUGMENTS, DATA
from segzoo.types import DataError

SETTINGS = {"crop": (20, 30), "scale_range": (0.2, 0.45), "hflip": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Smooth images of 203x301 pixels with masks. The second is a PNG."""
    folder = tmp_path_factory.mktemp("jpegs")
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    rows, columns = np.mgrid[:203, :301]
    pixels = np.stack([rows, columns * 0.8, (rows + columns) / 2], -1).astype(np.uint8)
    for index, suffix in enumerate((".jpg", ".png", ".jpg")):
        Image.fromarray(pixels).save(folder / f"images/train/{index}{suffix}", quality=98)
        Image.fromarray((rows > 100).astype(np.uint8)).save(folder / f"labels/train/{index}.png")
    return folder


def test_divisors_leave_at_least_the_size_of_the_resized_image():
    assert [largest_reduction(factor) for factor in (2, 1, 0.51, 0.5, 0.26, 0.25, 0.13, 0.125, 0.01)] == [1, 1, 1, 2, 2, 4, 4, 8, 8]


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_means_of_blocks(reduction, mode, root, tmp_path):
    Image.open(root / "images/train/0.jpg").convert(mode).save(tmp_path / "image.jpg", quality=98)
    full = read_image(tmp_path / "image.jpg")[: 203 // 8 * 8, : 301 // 8 * 8].astype(float)
    reduced = read_reduced(tmp_path / "image.jpg", reduction)
    assert reduced
    image, size = reduced
    assert size == (203, 301) and image.shape == (-(-203 // reduction), -(-301 // reduction), 3) and image.dtype == np.uint8
    means = full.reshape(full.shape[0] // reduction, reduction, -1, reduction, 3).mean((1, 3))
    assert np.abs(image[: means.shape[0], : means.shape[1]] - means).max() < 3


def test_other_files_are_left_to_the_usual_reader(root, tmp_path):
    image = Image.open(root / "images/train/0.jpg")
    assert read_reduced(root / "images/train/1.png", 2) is None
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    (tmp_path / "short.jpg").write_bytes((root / "images/train/0.jpg").read_bytes()[:-50])
    assert [read_reduced(tmp_path / f"{name}.jpg", 2) for name in ("turned", "cmyk", "short")] == [None, None, None]
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    with pytest.raises(DataError, match="broken.jpg"):
        read_reduced(tmp_path / "broken.jpg", 2)


def test_training_images_are_close_to_those_of_a_full_decode(root):
    def images(cache, **given):
        dataset = DATA.build("folder", "train", root=str(root), classes=("top", "bottom"), cache=cache)
        augment = AUGMENTS.build("standard", dataset.info, **SETTINGS, **given)
        return list(train_batches(dataset, augment, batch_size=3, workers=0, seed=1, stop=4))

    full, reduced, cached = images("none"), images("none", reduced_jpeg=True), images("ram", reduced_jpeg=True)
    differences = [np.abs(a.image.numpy().astype(int) - b.image.numpy()).max((1, 2, 3)) for a, b in zip(full, reduced, strict=True)]
    for a, b, c, difference in zip(full, reduced, cached, differences, strict=True):
        assert (a.image == c.image).all() and a.names == b.names, "a cache keeps full images"
        assert all(value == 0 for value, name in zip(difference, a.names, strict=True) if name == "1"), "a PNG is not reduced"
        assert difference.max() <= 8, "the gradient has a step of 1 per pixel, and a factor of 0.2 skips 5"
    assert max(difference.max() for difference in differences) > 0
