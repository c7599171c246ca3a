"""Label maps as PNG files."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segzoo.visualization.drawing import IGNORED, colorize, overlay
from segzoo.visualization.label_png import encode_png


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (37, 53)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_survive(shape, dtype):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    image = decoded(encode_png(pixels))
    assert image.mode == ("L" if dtype == np.uint8 else "I;16") and (np.array(image) == pixels).all()
    image = decoded(encode_png(pixels[::-1, ::2]))
    assert (np.array(image) == pixels[::-1, ::2]).all(), "views are encoded like copies"


def test_a_palette_png_is_about_as_small_as_pillows():
    label = np.zeros((240, 320), np.uint8)
    y, x = np.ogrid[:240, :320]
    for number in range(1, 8):
        label[(y - 30 * number) ** 2 + (x - 40 * number) ** 2 < 900] = number
    colors = [(k, 255 - k, 7) for k in range(256)]
    data, reference = encode_png(label, colors), io.BytesIO()
    image = decoded(data)
    assert image.mode == "P" and (np.array(image) == label).all() and (image.getpalette() or [])[3:6] == [1, 254, 7]
    image.save(reference, "PNG")
    assert len(data) < 1.5 * len(reference.getvalue()) < label.size / 10


@pytest.mark.parametrize(("hidden", "alpha"), [((), 0.5), ((0, 2), 0.3), ((), 1.0), ((1,), 0.0)])
def test_tints_are_blended_like_single_pixels(hidden, alpha):
    rng, palette = np.random.default_rng(1), [(200, 30, 7), (0, 0, 0), (255, 254, 1)]
    image = rng.integers(0, 256, (70, 9, 3), np.uint8)
    for values, dtype in ((3, np.uint8), (5, np.int32)):
        label = np.repeat(rng.integers(0, values, 7), 10).astype(dtype)[:, None].repeat(9, 1)
        view, colors = overlay(image, label, palette, hidden, alpha), colorize(label, palette)
        for y in (4, 5, 34, 65):  # inside the bands, away from their outlines
            clear = label[y, 0] in hidden or label[y, 0] >= 3
            mixed = np.round(
                (1 - np.float32(alpha)) * image[y].astype(np.float32) + np.float32(alpha) * colors[y].astype(np.float32)
            )
            assert (view[y] == (image[y] if clear else mixed)).all()
    assert tuple(colorize(np.array([[9]]), palette)[0, 0]) == IGNORED
