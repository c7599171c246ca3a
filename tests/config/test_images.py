"""Choice of the images that a network is compared or timed on."""

from __future__ import annotations

import numpy as np
import pytest

from segzoo.config.build import build_data
from segzoo.config.images import GeneratedImages, choose_images
from segzoo.pixel_format import PixelFormat
from segzoo.registry import ConfigError
from segzoo.types import DataError


def folder_data(root):
    return build_data({"name": "folder", "root": str(root), "classes": ["a", "b"]}, "val")


@pytest.fixture
def images(tmp_path):
    """A data set whose label cannot be read."""
    from PIL import Image

    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "images/val/x.png")
    (tmp_path / "labels/val/x.png").write_bytes(b"damaged")
    return tmp_path


def test_images_of_a_data_set_are_read_without_labels(images, capsys):
    chosen = choose_images(folder_data(images), False)
    assert chosen.title == "folder" and len(chosen.images) == 1
    assert np.array_equal(chosen.images.image(0), np.full((20, 30, 3), (1, 2, 3)))
    assert capsys.readouterr().out == ""


def test_images_of_any_folder_are_taken(images):
    chosen = choose_images(folder_data("nowhere"), True, images=str(images / "images"))
    assert chosen.title == str(images / "images") and chosen.images.image(0).shape == (20, 30, 3)
    with pytest.raises(ConfigError, match="images=.*nothing is not a file or folder and matches no image"):
        choose_images(folder_data(images), True, images=str(images / "nothing"))


def test_generated_images_replace_a_data_set_that_is_elsewhere(capsys):
    chosen = choose_images(folder_data("nowhere"), False)
    assert chosen.title == "generated parts" and len(np.unique(chosen.images.image(0))) > 10
    output = capsys.readouterr().out
    assert output == "images: generated ones, since data root nowhere is not a folder. Set images=<folder> to use your own.\n"


def test_generated_images_use_all_bits_of_the_samples():
    small, deep = (GeneratedImages(PixelFormat(channels, bits)).image(0) for channels, bits in ((3, 8), (2, 16)))
    assert deep.dtype == np.uint16 and deep.shape == (*small.shape[:2], 2)
    np.testing.assert_array_equal(deep, 257 * small[..., :2].astype(np.uint16))


def test_a_data_set_that_is_asked_for_is_not_replaced():
    with pytest.raises(DataError, match="data root nowhere is not a folder"):
        choose_images(folder_data("nowhere"), True)


def test_images_of_several_files_are_joined(tmp_path):
    from PIL import Image

    patterns = ["rgb/{stem}.png", "nir/{stem}.png"]
    for folder, mode in (("rgb", "RGB"), ("nir", "L")):
        (tmp_path / folder).mkdir()
        Image.new(mode, (30, 20), 5).save(tmp_path / folder / "x.png")
    settings = {
        "name": "folder",
        "root": str(tmp_path),
        "classes": ["a", "b"],
        "channels": 4,
        "images": patterns,
        "show_channels": [0],
    }
    dataset = build_data(settings | {"mean": [1.0] * 4, "std": [1.0] * 4}, "all")
    chosen = choose_images(dataset, True, patterns, images=str(tmp_path))
    assert len(chosen.images) == 1 and chosen.images.image(0).shape == (20, 30, 4)
    with pytest.raises(ConfigError, match="nir holds further channels of images only"):
        choose_images(dataset, True, patterns, images=str(tmp_path / "nir"))
    (tmp_path / "nir/x.png").unlink()
    with pytest.raises(DataError, match="is one of 2 files of an image"):
        chosen.images.image(0)
