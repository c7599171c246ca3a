"""Default colors of classes, also as seen by color-blind people."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segzoo.class_names import background_id
from segzoo.visualization.palette import OKABE_ITO, default_palette, distinct_colors

# Vienot, Brettel and Mollon, Color Research & Application 1999: linear RGB as seen without red or green cones
RED_BLIND = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
GREEN_BLIND = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))


def smallest_difference(colors, vision=None):
    """Smallest CIE76 difference of two colors."""
    rgb = np.array(colors, np.float32)[None] / 255
    if vision is not None:
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92) @ np.transpose(vision)
        linear = np.clip(linear, 0, 1)
        rgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear).astype(np.float32)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[0]
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return distances[np.triu_indices(len(colors), 1)].min()


@pytest.mark.parametrize("vision", [None, RED_BLIND, GREEN_BLIND], ids=["normal", "red blind", "green blind"])
def test_default_colors_are_told_apart(vision):
    assert smallest_difference(default_palette(("background", *"abcdefghijkl")), vision) > 15
    assert smallest_difference(distinct_colors(20), vision) > 8


def test_vocs_first_colors_are_not_told_apart():
    voc = [(128 * (k & 1), 128 * (k >> 1 & 1), 128 * (k >> 2 & 1)) for k in range(8)]
    assert smallest_difference(voc, RED_BLIND) < 5 < 20 < smallest_difference(voc), "the measure must see it"


def test_default_colors_stand_out_from_black():
    colors = default_palette(("background", *map(str, range(40))))
    assert colors[0] == (0, 0, 0) and colors[1:8] == OKABE_ITO
    luma = np.array(colors[1:]) @ (0.299, 0.587, 0.114)
    assert luma.min() > 25 and len(set(colors)) == 41
    assert default_palette(("sky", "road")) == OKABE_ITO[:2], "without a background, no class is black"


def test_any_number_of_classes_has_different_colors():
    colors = distinct_colors(5000)
    assert len(set(colors)) == 5000 and (0, 0, 0) not in colors and colors[:300] == distinct_colors(300)


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "BG", "back ground", "背景"])
def test_backgrounds_are_recognized_by_their_name(name):
    assert background_id((name, "scratch")) == 0 and background_id(("scratch", name)) is None


@pytest.mark.parametrize("name", ["backgrounds of cars", "belt", "sky", "ignore", "0"])
def test_other_names_are_no_background(name):
    assert background_id((name, "scratch")) is None
