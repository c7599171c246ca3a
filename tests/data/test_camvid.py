"""CamVid on disk: size of its splits, class frequencies and statistics."""

from __future__ import annotations

import os

import numpy as np
import pytest
import yaml
from image_files import CONF, settings_from
from PIL import Image

from segzoo.data.balance.class_counts import count_classes
from segzoo.data.balance.class_weights import median_frequency
from segzoo.registry import DATA
from segzoo.types import IGNORE

needs_data = pytest.mark.skipif(not os.environ.get("SEGZOO_DATA"), reason="SEGZOO_DATA is not set")


# percent of the labeled pixels of train
CAMVID_CLASS_PERCENT = [17.54, 24.22, 1.02, 32.96, 4.67, 10.12, 1.22, 1.17, 6.11, 0.67, 0.30]


# order and colors of SegNet's tutorial (Scripts/test_segmentation_camvid.py), the source of these label files
SEGNET_CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}


def test_classes_and_colors_have_the_order_of_the_label_files():
    name, options = settings_from("camvid")
    info = DATA.build(name, "val", **options).info
    assert dict(zip(info.classes, info.palette, strict=True)) == SEGNET_CLASSES and list(info.classes) == list(SEGNET_CLASSES)


@pytest.mark.data
@needs_data
def test_camvid_is_complete():
    name, options = settings_from("camvid")
    train, val = (DATA.build(name, split, **options) for split in ("train", "val"))
    assert (len(train), len(val)) == (367, 101)
    counts = np.zeros(256, np.int64)
    for index in range(len(train)):
        sample = train[index]
        assert sample.image.shape == (360, 480, 3) and sample.label.shape == (360, 480)
        counts += np.bincount(sample.label.ravel(), minlength=256)
    assert counts[11:255].sum() == 0 and counts[IGNORE] > 0
    np.testing.assert_allclose(100 * counts[:11] / counts[:11].sum(), CAMVID_CLASS_PERCENT, atol=0.01)
    seen = set().union(*(np.unique(val[index].label) for index in range(0, len(val), 5)))
    assert seen == {*range(11), IGNORE}


@pytest.mark.data
@needs_data
def test_the_recipe_holds_square_roots_of_the_median_frequency_weights():
    name, options = settings_from("camvid")
    recipe = yaml.safe_load((CONF / "recipe/camvid.yaml").read_text())
    weights = median_frequency(count_classes(DATA.build(name, "train", **options)))
    assert recipe["loss"]["class_weights"] == np.round(weights**0.5, 2).tolist()


@pytest.mark.data
@needs_data
def test_camvid_statistics_and_palette():
    name, options = settings_from("camvid")
    data = DATA.build(name, "train", **options)
    pixels = np.concatenate([data[index].image[::4, ::4].reshape(-1, 3) for index in range(0, len(data), 3)])
    np.testing.assert_allclose(pixels.mean(axis=0), data.info.mean, atol=1.5)
    np.testing.assert_allclose(pixels.std(axis=0), data.info.std, atol=1.5)
    stored = Image.open(data.scan()[0].label).getpalette()  # type: ignore[arg-type]
    assert stored is not None and np.array_equal(np.reshape(stored[:33], (11, 3)), data.info.palette)
