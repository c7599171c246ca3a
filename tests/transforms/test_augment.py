"""Augmentation: alignment of image and label, valid labels, reproducibility."""

from __future__ import annotations

import colorsys
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.registry import AUGMENTS, ConfigError
from segzoo.transforms.augment import source_map
from segzoo.transforms.warp import resize, source_span
from segzoo.types import DatasetInfo, Sample

ROOT = Path(__file__).parents[2]
INFO = DatasetInfo("blocks", tuple("abcdefgh"), ((0, 0, 0),) * 8)
MEAN = np.array([124, 116, 104])
COLORS = np.random.default_rng(3).permutation(256)[:24].reshape(8, 3).astype(np.uint8)


def standard(info: DatasetInfo = INFO, /, **given: Any):
    return AUGMENTS.build("standard", info, **given)


def blocks(height: int, width: int, block: int = 8, seed: int = 0, dtype=np.uint8) -> Sample:
    """Square blocks of one class each, colored by class."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 8, (-(-height // block), -(-width // block)))
    label = coarse.repeat(block, 0).repeat(block, 1)[:height, :width]
    return Sample(COLORS[label], label.astype(dtype), "blocks")


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "crop": st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
        "scale": st.booleans(),
        "scale_range": st.sampled_from([(0.5, 2.0), (0.01, 0.1), (1.0, 1.0), (3.0, 7.0)]),
        "hflip": st.booleans(),
        "rotate": st.sampled_from([0.0, 10.0, 180.0]),
        "color_jitter": st.sampled_from([0.0, 0.5, 1.0]),
        "blur": st.sampled_from([0.0, 0.5, 1.0]),
    },
)


@given(SETTINGS, st.integers(1, 40), st.integers(1, 40), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 2**64 - 1))
@settings(max_examples=80, deadline=None)
def test_all_sizes_and_settings(given, height, width, dtype, seed):
    ignore = 255 if dtype == np.uint8 else 65535
    augment = standard(DatasetInfo("blocks", INFO.classes, INFO.palette, ignore=ignore), **given)
    sample = blocks(height, width, 3, dtype=dtype)
    before = sample.image.copy(), sample.label.copy()
    out = augment(sample, seed)
    size = given.get("crop") or (height, width)
    assert out.image.shape == (*size, 3) and out.image.dtype == np.uint8 and out.name == "blocks"
    assert out.label.shape == size and out.label.dtype == dtype
    assert set(np.unique(out.label)) <= {*np.unique(sample.label), ignore}
    assert np.array_equal(before[0], sample.image) and np.array_equal(before[1], sample.label)
    again = AUGMENTS.build("standard", DatasetInfo("blocks", INFO.classes, INFO.palette, ignore=ignore), **given)
    again(blocks(7, 7), seed + 1)
    repeated = again(sample, seed)
    assert np.array_equal(repeated.image, out.image) and np.array_equal(repeated.label, out.label)


@pytest.mark.parametrize(
    "given", [{}, {"rotate": 30.0}, {"scale": False, "crop": (90, 200)}, {"crop": (33, 47), "rotate": 180.0}], ids=str
)
def test_image_and_label_stay_aligned(given):
    sample, padded, checked = blocks(96, 120), 0, 0
    for seed in range(30):
        out = standard(**given)(sample, seed)
        padding = out.label == 255
        assert np.array_equal(out.image[padding], np.broadcast_to(MEAN, (padding.sum(), 3)))
        padded += padding.sum()
        around = np.lib.stride_tricks.sliding_window_view(np.pad(out.label, 2, constant_values=200), (5, 5))
        inner = (around == out.label[..., None, None]).all((2, 3)) & ~padding  # farther from an edge than interpolation reaches
        assert np.array_equal(out.image[inner], COLORS[out.label[inner]])
        checked += inner.sum()
    assert padded > 0 and checked > 5_000


@pytest.mark.parametrize("factor", [0.5, 0.77, 1.0, 1.3, 2.0])
def test_warp_equals_resizing_then_cropping(factor):
    rng = np.random.default_rng(1)
    image, size, crop, corner = rng.integers(0, 256, (60, 81, 3), dtype=np.uint8), (60, 81), (25, 31), (3, 5)
    scaled = round(60 * factor), round(81 * factor)
    matrix = source_map(size, scaled, crop, corner, angle=0.0, flipped=False)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    actual = cv2.warpAffine(image, matrix, crop[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    expected = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)[3 : 3 + 25, 5 : 5 + 31]
    actual = actual[: expected.shape[0], : expected.shape[1]]
    assert np.abs(actual.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])  # a crop at even positions begins and ends with a source pixel
def test_cropping_first_equals_cropping_last_where_they_commute(factor):
    size, crop, corner = (60, 100), (24, 32), (6, 8)
    sample = blocks(*size, block=5)
    scaled = round(size[0] * factor), round(size[1] * factor)
    spans = tuple(source_span(*axis) for axis in zip(corner, crop, scaled, size, strict=True))
    inside = slice(corner[0], corner[0] + crop[0]), slice(corner[1], corner[1] + crop[1])
    whole = cv2.resize(sample.image, scaled[::-1], interpolation=cv2.INTER_LINEAR)[inside]
    label = cv2.resize(sample.label, scaled[::-1], interpolation=cv2.INTER_NEAREST_EXACT)[inside]
    inner = slice(1, -1), slice(1, -1)  # an outermost pixel may interpolate with a neighbor beside the crop
    assert np.array_equal(resize(sample.image[spans], crop, False)[inner], whole[inner])
    assert np.array_equal(resize(sample.label[spans], crop, True), label[:, ::-1])


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0.02, 8))
@settings(max_examples=200, deadline=None)
def test_a_crop_lies_within_half_a_pixel_of_its_place(size, crop, position, factor):
    scaled = max(1, round(size * factor))
    crop = min(crop, scaled)
    start = round(position * (scaled - crop))
    span = source_span(start, crop, scaled, size)
    assert 0 <= span.start < span.stop <= size
    assert abs(span.start - start * size / scaled) <= 1 and abs(span.stop - span.start - crop * size / scaled) <= 1


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0.02, 8), st.data())
@settings(max_examples=200, deadline=None)
def test_a_crop_that_has_a_pixel_keeps_it_despite_rounding(size, crop, position, factor, data):
    scaled = max(1, round(size * factor))
    crop = min(crop, scaled)
    start, focus = round(position * (scaled - crop)), data.draw(st.integers(0, size - 1))
    plain, moved = source_span(start, crop, scaled, size), source_span(start, crop, scaled, size, focus)
    assert moved.start <= focus < moved.stop and 0 <= moved.start < moved.stop <= size
    assert moved.stop - moved.start == plain.stop - plain.start and (moved == plain) == (plain.start <= focus < plain.stop)


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_an_odd_crop_at_twice_the_size_has_the_focus(seed):
    label = np.zeros((100, 100), np.uint8)
    label[11, 37] = 7
    out = standard(crop=(13, 13), scale_range=(2.0, 2.0), hflip=False)(
        Sample(np.zeros((100, 100, 3), np.uint8), label, "", (11, 37)), seed
    )
    assert 7 in out.label


REDUCED = st.sampled_from([(0.02, 0.12), (0.1, 0.25), (0.3, 0.5)])


@given(REDUCED, st.integers(50, 99), st.integers(50, 99), st.sampled_from([0.0, 30.0]), st.integers(1, 40), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_reduced_images_keep_their_labels(factors, height, width, rotate, crop, seed):
    """Image and label hold the row or column of the source."""
    augment = standard(crop=(crop, crop), scale_range=factors, rotate=rotate, reduced_jpeg=True)
    reduction = augment.reduction(seed)
    assert reduction in (2, 4, 8) and reduction * augment._factor(np.random.default_rng(seed).random()) <= 1
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    padded = [np.pad(plane, ((0, -height % reduction), (0, -width % reduction)), "edge") for plane in (rows, columns)]
    blocks_of = [p.reshape(p.shape[0] // reduction, reduction, -1, reduction).mean((1, 3)) for p in padded]
    image = np.round(np.stack([*blocks_of, blocks_of[0]], -1)).astype(np.uint8)
    unlimited = DatasetInfo("places", tuple(map(str, range(100))), ((0, 0, 0),) * 100)
    augment = standard(unlimited, crop=(crop, crop), scale_range=factors, rotate=rotate, reduced_jpeg=True)
    for axis, plane in enumerate((rows, columns)):
        result = augment(Sample(image, plane.astype(np.uint8), "places", reduction=reduction), seed)
        inside = result.label != 255
        assert result.image.shape == (crop, crop, 3)
        step = 1 / factors[0]  # source pixels of one output pixel
        difference = np.abs(result.image[..., axis].astype(int) - result.label)[inside]
        assert not inside.any() or difference.max() <= 1.5 * step + reduction


def test_crops_of_scaled_images_cover_the_image_evenly():
    ramp = np.broadcast_to(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], (64, 256, 3)).copy()
    augment = standard(crop=(32, 32), scale_range=(0.6, 2.0), hflip=False)
    centers = [augment(Sample(ramp, ramp[..., 0], ""), seed).image[:, 15:17].mean() for seed in range(2000)]
    warped = standard(crop=(32, 32), scale_range=(0.6, 2.0), hflip=False, rotate=1e-9)  # rotated crops are warped
    expected = [warped(Sample(ramp, ramp[..., 0], ""), seed).image[:, 15:17].mean() for seed in range(2000)]
    assert np.abs(np.array(centers) - expected).max() <= 2  # the same crops up to a source pixel
    assert abs(np.mean(centers) - 127.5) < 4


def test_rotation_agrees_with_opencv():
    matrix = source_map((60, 81), (60, 81), (60, 81), (0, 0), angle=17.0, flipped=False)
    expected = cv2.invertAffineTransform(cv2.getRotationMatrix2D((40.0, 29.5), 17.0, 1.0))
    assert np.allclose(matrix, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_hflip_is_exact_and_applied_to_half_of_the_images(dtype):
    sample = blocks(31, 46, 3, dtype=dtype)
    outs = [standard(scale=False)(sample, seed) for seed in range(400)]
    flipped = [not np.array_equal(out.label, sample.label) for out in outs]
    for out, is_flipped in zip(outs, flipped, strict=True):
        step = -1 if is_flipped else 1
        assert np.array_equal(out.label, sample.label[:, ::step]) and np.array_equal(out.image, sample.image[:, ::step])
    assert 160 < sum(flipped) < 240


def test_disabled_transforms_and_none_change_nothing():
    sample = blocks(13, 17, 3)
    for augment in (standard(scale=False, hflip=False), AUGMENTS.build("none", INFO)):
        out = augment(sample, 5)
        assert np.array_equal(out.image, sample.image) and np.array_equal(out.label, sample.label)


def test_crop_positions_are_uniform():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0], image[..., 1] = np.indices((8, 8))
    augment = standard(crop=(5, 3), scale=False, hflip=False)
    corners = [tuple(augment(Sample(image, image[..., 0], ""), seed).image[0, 0, :2]) for seed in range(2400)]
    counts = np.unique(corners, axis=0, return_counts=True)
    assert sorted(map(tuple, counts[0])) == [(y, x) for y in range(4) for x in range(6)]
    assert counts[1].min() > 60 and counts[1].max() < 145  # 100 expected for each


@given(SETTINGS, st.integers(9, 40), st.integers(9, 40), st.integers(0, 2**64 - 1), st.data())
@settings(max_examples=100, deadline=None)
def test_a_crop_contains_the_focus(given, height, width, seed, data):
    given = {"crop": (11, 7), "scale": True} | given | {"scale_range": (0.5, 2.0)}
    top, left = data.draw(st.integers(0, height - 9)), data.draw(st.integers(0, width - 9))
    focus = top + data.draw(st.integers(3, 5)), left + data.draw(st.integers(3, 5))  # in the middle of 9x9 pixels
    label = np.zeros((height, width), np.uint8)
    label[top : top + 9, left : left + 9] = 7
    out = standard(**given)(Sample(np.zeros((height, width, 3), np.uint8), label, "", focus), seed)
    assert 7 in out.label or given["crop"] is None  # without a crop, a rotation may move the focus out of the image


def test_focused_crops_stay_inside_the_image_and_spread_over_the_focus():
    label = np.arange(64, dtype=np.uint8).reshape(8, 8)
    sample = Sample(np.zeros((8, 8, 3), np.uint8), label, "", (1, 5))
    outs = [standard(DatasetInfo("pixels", tuple(map(str, range(64))), ((0, 0, 0),) * 64), crop=(5, 3), scale=False, hflip=False)(sample, seed).label for seed in range(300)]  # fmt: skip
    assert all(label[1, 5] in out and 255 not in out for out in outs)
    assert {divmod(int(out[0, 0]), 8) for out in outs} == {(y, x) for y in (0, 1) for x in (3, 4, 5)}


def test_padded_images_are_placed_everywhere():
    augment = standard(crop=(9, 9), scale=False, hflip=False)
    corners = {tuple(np.argwhere(augment(blocks(6, 6), seed).label != 255)[0]) for seed in range(300)}
    assert corners == {(y, x) for y in range(4) for x in range(4)}


def test_scales_are_uniform_over_their_range():
    augment = standard(crop=(200, 200), hflip=False)
    sides = [(augment(blocks(100, 100), seed).label != 255).sum() ** 0.5 / 100 for seed in range(200)]
    assert 0.5 <= min(sides) < 0.53 and 1.97 < max(sides) <= 2.0 and 1.15 < np.mean(sides) < 1.35


def test_disabling_one_transform_leaves_the_others_unchanged():
    for seed in range(20):
        without, with_flip = (standard(hflip=hflip)(blocks(40, 50), seed).label for hflip in (False, True))
        assert np.array_equal(without, with_flip) or np.array_equal(without[:, ::-1], with_flip)


def test_color_jitter_and_blur_change_only_the_image():
    sample = blocks(40, 50)
    plain, jittered, blurred = (standard(**given)(sample, 4) for given in ({}, {"color_jitter": 0.5}, {"blur": 1.0}))
    assert np.array_equal(plain.label, jittered.label) and np.array_equal(plain.label, blurred.label)
    assert not np.array_equal(plain.image, jittered.image)
    assert np.abs(blurred.image.astype(int) - cv2.GaussianBlur(plain.image, (5, 5), 1.1)).max() <= 1
    jittered_images = [standard(color_jitter=0.5, scale=False, hflip=False)(sample, seed).image.tobytes() for seed in range(20)]
    assert len(set(jittered_images)) == 20


@pytest.mark.parametrize("color_jitter", [0.2, 0.3, 0.5])
def test_hue_shifts_by_up_to_a_fifth_of_the_color_jitter(color_jitter):
    color = np.array([100, 40, 40], np.uint8)  # hue 0, and dark enough that no channel saturates
    augment = standard(color_jitter=color_jitter, scale=False, hflip=False)
    sample = Sample(np.full((2, 2, 3), color), np.zeros((2, 2), np.uint8), "red")
    shifts = []
    for seed in range(300):
        red, green, blue = (int(channel) for channel in augment(sample, seed).image[0, 0])
        if max(red, green, blue) - min(red, green, blue) > 25:  # the hue of gray is noise
            shifts.append(colorsys.rgb_to_hsv(red, green, blue)[0])
    turns = np.array(shifts) - np.round(shifts)  # -0.5 to 0.5
    assert len(turns) > 100 and np.abs(turns).max() <= color_jitter / 5 + 0.02
    assert turns.max() > 0.85 * color_jitter / 5 and turns.min() < -0.85 * color_jitter / 5


@pytest.mark.integration
def test_color_jitter_gives_no_warnings_and_needs_no_network():
    code = "import socket; socket.getaddrinfo = lambda *_: exit('contacted a server'); from test_augment import *; "
    code += "import warnings; warnings.simplefilter('error'); standard(color_jitter=0.3, blur=0.5)(blocks(20, 20), 0)"
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, check=True, timeout=100)


def test_invalid_settings_are_rejected():
    with pytest.raises(ConfigError, match=r"scale_range=\[2.0, 0.5\]: expected the smaller factor first"):
        standard(scale_range=(2.0, 0.5))
    for invalid in ({"crop": (0, 5)}, {"scale_range": (0.0, 1.0)}, {"color_jitter": 1.5}, {"crop": 713}, {"flip": True}):
        with pytest.raises(ConfigError, match=next(iter(invalid))):
            standard(**invalid)
