"""Small versions of images and label maps."""

from __future__ import annotations

import numpy as np
import pytest

from segzoo.types import DatasetInfo
from segzoo.visualization.layers import downscale_label, label_layer, page_size

INFO = DatasetInfo("test", ("background", "a", "b"), ((0, 0, 0), (200, 10, 20), (0, 255, 0)))


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 20), (10, 20)), ((300, 400), (150, 200)), ((1, 10**6), (1, 173205)), ((1024, 2048), (122, 244))]
)
def test_images_keep_their_shape_and_are_never_enlarged(size, expected):
    assert page_size(size, 30_000) == expected


def test_a_blob_smaller_than_a_pixel_remains_visible():
    label = np.zeros((400, 400), np.uint8)
    label[101:104, 202:205] = 1
    small = downscale_label(label, (100, 100))
    assert small.dtype == np.uint8 and np.argwhere(small == 1).tolist() == [[25, 50], [25, 51]]


def test_layers_show_classes_in_their_colors_and_the_background_clear():
    layer = label_layer(np.array([[0, 1], [2, 255]], np.uint8), INFO)
    assert layer.mode == "P"
    pixels = np.asarray(layer.convert("RGBA")).tolist()
    assert pixels == [[[0, 0, 0, 0], [200, 10, 20, 255]], [[0, 255, 0, 255], [255, 255, 255, 255]]]


def test_data_sets_of_many_classes_have_layers_too():
    names = ("background", *(str(k) for k in range(1, 255)), "ignore", *(str(k) for k in range(256, 300)))
    info = DatasetInfo("test", names, tuple((k % 256, k // 256, 7) for k in range(300)))
    pixels = np.asarray(label_layer(np.array([[0, 254, 299]], np.uint16), info).convert("RGBA"))
    assert pixels.tolist() == [[[0, 0, 7, 0], [254, 0, 7, 255], [43, 1, 7, 255]]]


def test_of_several_classes_in_a_pixel_the_rarest_is_shown():
    label = np.zeros((40, 40), np.uint8)
    label[:10, :20], label[:10, 5:10] = 1, 2
    assert downscale_label(label, (4, 4))[0].tolist() == [2, 1, 0, 0]
