"""Image and label move together, no label is invented, and the seed decides everything."""

from __future__ import annotations

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
from segzoo.types import DatasetInfo, Sample

ROOT = Path(__file__).parents[2]
INFO = DatasetInfo("blocks", tuple("abcdefgh"), ((0, 0, 0),) * 8)
MEAN = np.array([124, 116, 104])
COLOURS = np.random.default_rng(3).permutation(256)[:24].reshape(8, 3).astype(np.uint8)


def standard(info: DatasetInfo = INFO, /, **given: Any):
    return AUGMENTS.build("standard", info, **given)


def blocks(height: int, width: int, block: int = 8, seed: int = 0, dtype=np.uint8) -> Sample:
    """Square blocks of a class each, colored by class."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 8, (-(-height // block), -(-width // block)))
    label = coarse.repeat(block, 0).repeat(block, 1)[:height, :width]
    return Sample(COLOURS[label], label.astype(dtype), "blocks")


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
def test_any_size_any_settings(given, height, width, dtype, seed):
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
def test_picture_and_label_move_together(given):
    sample, padded, checked = blocks(96, 120), 0, 0
    for seed in range(30):
        out = standard(**given)(sample, seed)
        beyond = out.label == 255
        assert np.array_equal(out.image[beyond], np.broadcast_to(MEAN, (beyond.sum(), 3)))
        padded += beyond.sum()
        around = np.lib.stride_tricks.sliding_window_view(np.pad(out.label, 2, constant_values=200), (5, 5))
        inner = (around == out.label[..., None, None]).all((2, 3)) & ~beyond  # farther from an edge than interpolation reaches
        assert np.array_equal(out.image[inner], COLOURS[out.label[inner]])
        checked += inner.sum()
    assert padded > 0 and checked > 5_000


@pytest.mark.parametrize("factor", [0.5, 0.77, 1.0, 1.3, 2.0])
def test_equals_resizing_the_whole_then_cropping(factor):
    rng = np.random.default_rng(1)
    image, size, crop, corner = rng.integers(0, 256, (60, 81, 3), dtype=np.uint8), (60, 81), (25, 31), (3, 5)
    scaled = round(60 * factor), round(81 * factor)
    matrix = source_map(size, scaled, crop, corner, angle=0.0, mirrored=False)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    got = cv2.warpAffine(image, matrix, crop[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    wanted = cv2.resize(image, scaled[::-1], interpolation=cv2.INTER_LINEAR)[3 : 3 + 25, 5 : 5 + 31]
    got = got[: wanted.shape[0], : wanted.shape[1]]
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_rotation_equals_opencv():
    matrix = source_map((60, 81), (60, 81), (60, 81), (0, 0), angle=17.0, mirrored=False)
    wanted = cv2.invertAffineTransform(cv2.getRotationMatrix2D((40.0, 29.5), 17.0, 1.0))
    assert np.allclose(matrix, wanted)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_mirror_is_exact_and_half(dtype):
    sample = blocks(31, 46, 3, dtype=dtype)
    outs = [standard(scale=False)(sample, seed) for seed in range(400)]
    flipped = [not np.array_equal(out.label, sample.label) for out in outs]
    for out, is_flipped in zip(outs, flipped, strict=True):
        step = -1 if is_flipped else 1
        assert np.array_equal(out.label, sample.label[:, ::step]) and np.array_equal(out.image, sample.image[:, ::step])
    assert 160 < sum(flipped) < 240


def test_all_off_changes_nothing_and_none_is_none():
    sample = blocks(13, 17, 3)
    for augment in (standard(scale=False, mirror=False), AUGMENTS.build("none", INFO)):
        out = augment(sample, 5)
        assert np.array_equal(out.image, sample.image) and np.array_equal(out.label, sample.label)


def test_crops_lie_everywhere_evenly():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0], image[..., 1] = np.indices((8, 8))
    augment = standard(crop=(5, 3), scale=False, mirror=False)
    corners = [tuple(augment(Sample(image, image[..., 0], ""), seed).image[0, 0, :2]) for seed in range(2400)]
    counts = np.unique(corners, axis=0, return_counts=True)
    assert sorted(map(tuple, counts[0])) == [(y, x) for y in range(4) for x in range(6)]
    assert counts[1].min() > 60 and counts[1].max() < 145  # 100 expected each


def test_padding_lies_everywhere():
    augment = standard(crop=(9, 9), scale=False, mirror=False)
    corners = {tuple(np.argwhere(augment(blocks(6, 6), seed).label != 255)[0]) for seed in range(300)}
    assert corners == {(y, x) for y in range(4) for x in range(4)}


def test_scales_fill_their_range_evenly():
    augment = standard(crop=(200, 200), mirror=False)
    sides = [(augment(blocks(100, 100), seed).label != 255).sum() ** 0.5 / 100 for seed in range(200)]
    assert 0.5 <= min(sides) < 0.53 and 1.97 < max(sides) <= 2.0 and 1.15 < np.mean(sides) < 1.35


def test_switching_one_thing_off_leaves_the_others():
    for seed in range(20):
        one, two = (standard(mirror=mirror)(blocks(40, 50), seed).label for mirror in (False, True))
        assert np.array_equal(one, two) or np.array_equal(one[:, ::-1], two)


def test_colours_change_only_the_picture():
    sample = blocks(40, 50)
    plain, jittered, blurred = (standard(**given)(sample, 4) for given in ({}, {"color_jitter": 0.5}, {"blur": 1.0}))
    assert np.array_equal(plain.label, jittered.label) and np.array_equal(plain.label, blurred.label)
    assert not np.array_equal(plain.image, jittered.image)
    assert np.abs(blurred.image.astype(int) - cv2.GaussianBlur(plain.image, (5, 5), 1.1)).max() <= 1
    several = [standard(color=0.5, scale=False, mirror=False)(sample, seed).image.tobytes() for seed in range(20)]
    assert len(set(several)) == 20


def test_colours_warn_of_nothing_and_call_nobody():
    code = "import socket; socket.getaddrinfo = lambda *_: exit('looked up a server'); from test_augment import *; "
    code += "import warnings; warnings.simplefilter('error'); standard(color_jitter=0.3, blur=0.5)(blocks(20, 20), 0)"
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, env=environment, check=True, timeout=100)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match=r"scale_range=\[2.0, 0.5\]: wanted the smaller factor first"):
        standard(scale_range=(2.0, 0.5))
    for wrong in ({"crop": (0, 5)}, {"scale_range": (0.0, 1.0)}, {"color_jitter": 1.5}, {"crop": 713}, {"flip": True}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            standard(**wrong)
