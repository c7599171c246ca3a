"""Warps of images beyond OpenCV's limit equal those of OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from segzoo.registry import AUGMENTS
from segzoo.transforms import warp
from segzoo.transforms.augment import source_map
from segzoo.transforms.warp import warp_affine
from segzoo.types import DatasetInfo, Sample

LINEAR: dict[str, Any] = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
NEAREST: dict[str, Any] = {"flags": cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT, "borderValue": 255}
IMAGE = np.random.default_rng(0).integers(0, 256, (120, 170, 3), dtype=np.uint8)


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    ("scaled", "crop", "corner", "angle"),
    [
        ((120, 170), (50, 60), (31, 77), 0.0),  # a crop
        ((60, 85), (90, 100), (-20, -10), 0.0),  # padding on all sides
        ((240, 340), (70, 90), (100, 200), 33.0),  # rotation
        ((12, 17), (40, 50), (-300, -500), 180.0),  # the image is outside
    ],
)
def test_tiles_equal_the_whole(monkeypatch, scaled, crop, corner, angle, flipped):
    matrix = source_map(IMAGE.shape[:2], scaled, crop, corner, angle, flipped)
    size = crop[::-1]
    colors, ids = cv2.warpAffine(IMAGE, matrix, size, **LINEAR), cv2.warpAffine(IMAGE[..., 0], matrix, size, **NEAREST)
    np.testing.assert_array_equal(warp_affine(IMAGE, matrix, size, **LINEAR), colors)
    np.testing.assert_array_equal(warp_affine(IMAGE[..., 0], matrix, size, **NEAREST), ids)
    monkeypatch.setattr(warp, "MAX_SIDE", 40)
    tiled = warp_affine(IMAGE, matrix, size, **LINEAR)
    assert np.abs(tiled.astype(int) - colors).max() <= 8  # OpenCV 4 interpolates at thirty-seconds of a pixel
    assert (tiled == colors).mean() > 0.98
    assert (warp_affine(IMAGE[..., 0], matrix, size, **NEAREST) == ids).mean() > 0.995


def test_small_images_are_warped_by_opencv_alone(monkeypatch):
    monkeypatch.setattr(warp, "_rectangle", lambda *_: pytest.fail("not needed"))
    warp_affine(IMAGE, np.eye(2, 3), (170, 120), **LINEAR)


@pytest.mark.parametrize("crop", [(16, 64), None])
def test_line_scans_of_any_width_are_augmented(crop):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 40_000, 3), dtype=np.uint8)
    info = DatasetInfo("scan", ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    augment = AUGMENTS.build("standard", info, crop=crop, scale=False)
    for seed in range(4):
        out = augment(Sample(image, image[..., 0] % 2, "scan"), seed)
        assert out.image.shape == ((*crop, 3) if crop else image.shape)
        np.testing.assert_array_equal(out.label, out.image[..., 0] % 2)
        flat = {row.tobytes() for row in np.lib.stride_tricks.sliding_window_view(image[0, :, 0], 32)}
        flat |= {row.tobytes() for row in np.lib.stride_tricks.sliding_window_view(image[0, ::-1, 0], 32)}
        assert out.image[0, :32, 0].tobytes() in flat and out.image[0, -32:, 0].tobytes() in flat
