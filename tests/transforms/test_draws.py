"""How often augmentation acts, and how far its draws reach."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from segzoo.registry import AUGMENTS
from segzoo.types import DatasetInfo, Sample

CLASSES, PALETTE = ("ground", "spot"), ((0, 0, 0), (255, 0, 0))
INFO = DatasetInfo("draws", CLASSES, PALETTE)


def outputs(sample, count, *, info=INFO, **settings):
    """A sample augmented with different seeds, neither scaled nor flipped."""
    augment = AUGMENTS.build("standard", info, scale=False, hflip=False, **settings)
    return [augment(sample, seed) for seed in range(count)]


def test_half_of_the_images_are_rotated_by_angles_of_either_sign():
    label = np.zeros((81, 81), np.uint8)
    label[39:42, 70:73] = 1  # 31 pixels to the right of the center
    outs = outputs(Sample(np.zeros((81, 81, 3), np.uint8), label, ""), 400, rotate=40.0)
    angles = []
    for out in outs:
        if not np.array_equal(out.label, label):
            row, column = np.argwhere(out.label == 1).mean(0) - 40
            angles.append(np.degrees(np.arctan2(-row, column)))
    assert 160 < len(angles) < 240
    assert -42 < min(angles) < -35 and 35 < max(angles) < 42 and abs(np.mean(angles)) < 5


@pytest.mark.parametrize("channels", [3, 5])
def test_the_fraction_of_blurred_images_is_that_of_the_setting(channels):
    info = DatasetInfo("draws", CLASSES, PALETTE, (120.0,) * channels, (60.0,) * channels)
    image = np.random.default_rng(0).integers(0, 256, (9, 11, channels), dtype=np.uint8)
    outs = outputs(Sample(image, np.zeros((9, 11), np.uint8), ""), 300, info=info, blur=0.25)
    blurred = [out.image for out in outs if not np.array_equal(out.image, image)]
    assert 50 < len(blurred) < 100
    assert all(np.abs(each.astype(int) - cv2.GaussianBlur(image, (5, 5), 1.1)).max() <= 1 for each in blurred)


def test_color_jitter_darkens_and_brightens_by_up_to_its_factor():
    gray = np.full((4, 4, 3), 100, np.uint8)  # whose contrast, saturation and hue cannot change
    outs = outputs(Sample(gray, np.zeros((4, 4), np.uint8), ""), 200, color_jitter=0.5)
    levels = [int(out.image[0, 0, 0]) for out in outs]
    assert 48 <= min(levels) < 55 and 145 < max(levels) <= 152 and 95 < np.mean(levels) < 105
