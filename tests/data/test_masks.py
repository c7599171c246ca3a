"""Conversion of masks to train ids, and the diagnosis of invalid values."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from image_files import noise, raw_png, save
from PIL import Image

from segzoo.data.color_masks import ColorMasks
from segzoo.data.image_io import read_mask
from segzoo.data.masks import IndexMasks
from segzoo.registry import DATA, ConfigError
from segzoo.types import IGNORE, DataError

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    "mode, dtype, top", [("L", np.uint8, 255), ("P", np.uint8, 255), ("I;16", np.uint16, 65535), ("1", np.uint8, 1)]
)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@quick
@given(data=st.data())
def test_index_masks_are_read_exactly(tmp_path, mode, dtype, top, form, data):
    raw = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, top)))
    image = Image.fromarray(raw.astype(bool) if mode == "1" else raw)
    if mode == "P":
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    mask = read_mask(save(tmp_path / "m", image, form))
    assert Image.open(tmp_path / "m").mode == mode and mask.dtype == dtype
    np.testing.assert_array_equal(mask, raw)


def test_int32_mask_keeps_negative_values(tmp_path):
    raw = np.array([[-1, 0], [70000, 5]], np.int32)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.tif", raw)), raw)


@pytest.mark.parametrize(
    "bits, row, expected", [(1, b"\x60", [0, 1, 1, 0]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x2f", [0, 1, 2, 15])]
)
def test_gray_masks_of_few_bits_are_not_scaled_to_255(tmp_path, bits, row, expected):
    (tmp_path / "m.png").write_bytes(raw_png(4, 1, bits, 0, [row]))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), [expected])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_palette_masks_of_any_depth_are_read_as_indices(tmp_path, bits, form):
    indices = (np.arange(35).reshape(5, 7) * 29 % 2**bits).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, 3 << bits, dtype=np.uint8).tobytes())
    options = {"bits": bits} if form == "PNG" else {}
    path = save(tmp_path / "m", image, form, **options)
    assert form != "PNG" or path.read_bytes()[24] == bits
    np.testing.assert_array_equal(read_mask(path), indices)


def test_unsuitable_masks_are_rejected_with_a_hint(tmp_path):
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:, 2:4], rgb[:, 4:] = (128, 0, 0), (0, 128, 0)
    cases = {
        "rgb": (rgb, r"RGB with 3 colors \(\[0, 0, 0\], \[0, 128, 0\], \[128, 0, 0\]\).*data.masks=color.*data.palette"),
        "rgba": (np.dstack([rgb, np.full((4, 6), 255, np.uint8)]), "mode RGBA with 3 colors"),
        "gray": (np.repeat(np.arange(6, dtype=np.uint8)[None, :, None], 3, axis=2), "gray stored as RGB"),
        "photo": (noise(60, 60), "photograph"),
        "la": (Image.fromarray(rgb).convert("LA"), "mode LA"),
        "cut.tif": (np.ones((4, 6), np.float32), "fractions"),
        "m.jpg": (rgb, "a JPEG cannot store labels.*PNG"),
    }
    for name, (array, expected) in cases.items():
        with pytest.raises(DataError, match=f"{name}: .*{expected}"):
            read_mask(save(tmp_path / name, array))


def test_a_jpeg_of_several_images_is_no_mask(tmp_path):
    image = Image.fromarray(np.zeros((8, 8), np.uint8))
    image.save(tmp_path / "m.png", "MPO", save_all=True, append_images=[image])  # as some cameras do
    with pytest.raises(DataError, match="m.png: a JPEG cannot store labels"):
        read_mask(tmp_path / "m.png")


def convert(tmp_path: Path, raw: np.ndarray, masks: IndexMasks | ColorMasks) -> np.ndarray:
    path = save(tmp_path / "m.tif", raw)
    return masks(path, (raw.shape[0], raw.shape[1]))


@quick
@given(
    table=st.dictionaries(st.integers(-3, 400), st.sampled_from([0, 1, 2, 3, IGNORE]), min_size=1, max_size=12),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32]),
    data=st.data(),
)
def test_label_map_is_a_table_lookup(tmp_path, table, dtype, data):
    info = np.iinfo(dtype)
    values = sorted({value for value in table if info.min <= value <= info.max} | {0, 7})
    raw = data.draw(hnp.arrays(dtype, (5, 6), elements=st.sampled_from(values)))
    masks = IndexMasks(4, table)
    unknown = {int(value) for value in np.unique(raw)} - table.keys()
    if unknown:
        with pytest.raises(DataError, match=rf"{min(unknown)} \({int((raw == min(unknown)).sum())} pixels\)"):
            convert(tmp_path, raw, masks)
    else:
        label = convert(tmp_path, raw, masks)
        assert label.dtype == np.uint8 and label.flags["WRITEABLE"]
        np.testing.assert_array_equal(label, np.vectorize(table.__getitem__, otypes=[np.uint8])(raw))


DIAGNOSES = [
    ([0, 255], 2, r"holds only 0 and 255.*'data.label_map=\{0:0,255:1\}'.*'data.label_map=\{0:0,1:1,255:255\}'"),
    ([7, 11, 26, 33, 0], 19, "Cityscapes labelIds. Use data=cityscapes"),
    ([1, 2, 3], 3, r"count from one. Use 'data.label_map=\{1:0,2:1,3:2\}'"),
    (
        [0, 1, 2, 3],
        3,
        r"one label value more than classes.*If 0 means 'unlabeled', use 'data.label_map=\{0:255,1:0,2:1,3:2\}'\. "
        r"If 3 means 'unlabeled', use 'data.label_map=\{0:0,1:1,2:2,3:255\}'\.",
    ),
    ([0, 128], 2, r"gray levels.*data.label_map=\{0:0,128:1\}"),
    ([0, 38, 75, 255], 3, r"data.label_map=\{0:0,38:1,75:2,255:255\}"),
    (list(range(40)), 3, "photograph"),
    ([-1, 0, 1], 2, r"negative value.*data.label_map=\{-1:255,0:0,1:1\}"),
    ([0, 1, 2, 9], 2, r"Name 10 classes .*'data.label_map=\{0:0,1:1,2:255,9:255\}'"),
    ([1, 2, 3, 255], 3, r"'data.label_map=\{1:0,2:1,3:2,255:255\}'"),
    ([-1, 0, 1, 255], 2, r"'data.label_map=\{-1:255,0:0,1:1,255:255\}'"),
    ([0, 65535], 2, r"\{0:0,65535:1\}"),
    (list(range(1, 151)), 150, r"count from one. Use 'data.label_map=\{1:0,2:1,3:2,.*,150:149\}'"),
]


@pytest.mark.parametrize("values, classes, expected", DIAGNOSES)
def test_invalid_values_are_diagnosed(tmp_path, values, classes, expected):
    dtype = np.int32 if min(values) < 0 else np.uint16 if max(values) > 255 else np.uint8
    with pytest.raises(DataError, match=rf"m\.tif: .*({expected})"):
        convert(tmp_path, np.array([values, values], dtype), IndexMasks(classes))


def test_the_suggested_label_maps_work(tmp_path):
    binary = np.array([[0, 255]], np.uint8)
    np.testing.assert_array_equal(convert(tmp_path, binary, IndexMasks(2, {0: 0, 255: 1})), [[0, 1]])
    np.testing.assert_array_equal(convert(tmp_path, binary, IndexMasks(2, {0: 0, 1: 1, 255: 255})), [[0, 255]])


def test_ignore_with_and_without_classes_is_valid(tmp_path):
    np.testing.assert_array_equal(convert(tmp_path, np.full((2, 2), 255, np.uint8), IndexMasks(2)), 255)
    np.testing.assert_array_equal(convert(tmp_path, np.array([[0, 1, 255]], np.uint8), IndexMasks(2)), [[0, 1, 255]])


def test_values_outside_the_table_are_listed_with_pixel_counts(tmp_path):
    raw = np.array([[0, 1, 12], [12, 13, 0]], np.uint8)
    with pytest.raises(
        DataError,
        match=r"12 \(2 pixels\), 13 \(1 pixels\), which are missing from data.label_map.*'data.label_map=\{0:0,1:1,12:255,13:255\}'",
    ):
        convert(tmp_path, raw, IndexMasks(2, {0: 0, 1: 1}))


def test_more_than_255_classes_are_uint16(tmp_path):
    raw = np.array([[0, 254, 255, 256, 299]], np.uint16)
    label = convert(tmp_path, raw, IndexMasks(300))
    assert label.dtype == np.uint16
    np.testing.assert_array_equal(label, raw)
    names = tuple(f"c{i}" for i in range(300))
    with pytest.raises(ConfigError, match="position 255 must be 'ignore'"):
        DATA.build("folder", "train", root="x", classes=names)
    DATA.build("folder", "train", root="x", classes=(*names[:255], "ignore", *names[256:]))


def test_labels_of_another_size_are_rejected(tmp_path):
    path = save(tmp_path / "m.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(DataError, match=r"m\.png: made for 6x4 pixels \(W x H\), but its image has 7x4.*never resized"):
        IndexMasks(2)(path, (4, 7))
    with pytest.raises(DataError, match="swapped: was the image rotated"):
        IndexMasks(2)(path, (6, 4))


@quick
@given(
    palette=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=3, max_size=20, unique=True),
    ids=hnp.arrays(np.uint8, (5, 7), elements=st.integers(0, 255)),
)
def test_color_masks_are_matched_exactly(tmp_path, palette, ids):
    ids = ids % len(palette)
    masks = ColorMasks(tuple(palette[:-1]), (palette[-1],))
    label = convert(tmp_path, np.array(palette, np.uint8)[ids], masks)
    np.testing.assert_array_equal(label, np.where(ids == len(palette) - 1, IGNORE, ids))
    assert label.dtype == np.uint8


def test_transparent_pixels_mean_what_the_setting_says(tmp_path):
    colors = np.array([[[0, 0, 0, 255], [255, 0, 0, 255], [7, 7, 7, 0], [0, 0, 0, 0]]], np.uint8)
    palette = ((0, 0, 0), (255, 0, 0))
    with pytest.raises(
        DataError, match=r"m\.tif: 2 pixels are transparent. Set data.transparent=background .* data.transparent=ignore"
    ):
        convert(tmp_path, colors, ColorMasks(palette, ()))
    for transparent, train_id in (("background", 0), ("ignore", IGNORE)):
        masks = ColorMasks(palette, (), transparent=transparent)  # type: ignore[arg-type]
        np.testing.assert_array_equal(convert(tmp_path, colors, masks), [[0, 1, train_id, train_id]])
    with pytest.raises(ConfigError, match="data.transparent"):
        DATA.build("folder", "train", root="x", classes=("a", "b"), transparent="background")


@pytest.mark.parametrize("mode", ["P", "RGB"])
def test_transparency_without_an_alpha_channel_counts_too(tmp_path, mode):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 7, 7, 7])
    path, palette = tmp_path / "m.png", ((0, 0, 0), (255, 0, 0), (7, 7, 7))
    image.convert(mode).save(path, transparency=2 if mode == "P" else (7, 7, 7))
    assert "A" not in Image.open(path).mode
    with pytest.raises(DataError, match="1 pixels are transparent"):
        ColorMasks(palette, ())(path, (1, 3))
    np.testing.assert_array_equal(ColorMasks(palette, (), transparent="ignore")(path, (1, 3)), [[0, 1, IGNORE]])
    if mode == "P":
        image.save(path, transparency=bytes([255, 90, 0]))
        with pytest.raises(DataError, match="1 pixels are half transparent"):
            ColorMasks(palette, ())(path, (1, 3))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colors_of_16_bits_are_rejected(tmp_path, suffix):
    colors = np.full((1, 2, 3), 65297, np.uint16)
    assert cv2.imwrite(str(tmp_path / f"m.{suffix}"), colors)
    with pytest.raises(
        DataError, match=rf"m\.{suffix}: has 16 bits per sample, but the colors of a palette have 8. Save it as 8-bit RGB"
    ):
        ColorMasks(((0, 0, 0), (255, 255, 255)), ())(tmp_path / f"m.{suffix}", (1, 2))


def test_numpy_files_are_named_with_the_command_that_converts_them(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 4), np.int64))
    with pytest.raises(DataError, match=r"a\.npy: is a NumPy array.*OLD\.npy NEW\.png") as caught:
        read_mask(tmp_path / "a.npy")
    code = str(caught.value).split("'")[1]
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.npy", tmp_path / "a.png"], check=True)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.ones((3, 4)))


def test_color_masks_report_unknown_colors_and_reject_transparency(tmp_path):
    palette = ((0, 0, 0), (255, 0, 0))
    colors = np.array([[[0, 0, 0], [255, 0, 0], [254, 0, 0], [254, 0, 0]]], np.uint8)
    masks = ColorMasks(palette, ())
    with pytest.raises(DataError, match=r"m\.tif: holds 1 colors.*\[254, 0, 0\] \(2 pixels\).*data.palette"):
        convert(tmp_path, colors, masks)
    with pytest.raises(DataError, match="smoothed"):
        convert(tmp_path, noise(), masks)
    opaque = np.dstack([colors[:, :2], np.full((1, 2), 255, np.uint8)])
    np.testing.assert_array_equal(convert(tmp_path, opaque, masks), [[0, 1]])
    opaque[0, 0, 3] = 9
    with pytest.raises(DataError, match="1 pixels are half transparent"):
        convert(tmp_path, opaque, masks)
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    indexed.putpalette([255, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(masks(save(tmp_path / "p.png", indexed), (1, 2)), [[1, 0]])
    assert len(pickle.dumps(masks)) < 10_000


@pytest.mark.parametrize("data", [b"P5\n2 2\n4\n\x00\x01\x02\x04", b"P2\n2 1\n1\n1 0\n"])
def test_numbers_that_pillow_would_scale_are_rejected(tmp_path, data):
    (tmp_path / "m.pgm").write_bytes(data)
    with pytest.raises(
        DataError, match=r"m\.pgm: a PGM with a largest value of [14], expected 255 or 65535. Save the numbers as PNG"
    ):
        read_mask(tmp_path / "m.pgm")
    for text in (b"P5\n2 1\n255\n\x01\x02", b"P5\n2 1\n65535\n\x00\x01\x00\x02"):
        (tmp_path / "m.pgm").write_bytes(text)
        np.testing.assert_array_equal(read_mask(tmp_path / "m.pgm"), [[1, 2]])
