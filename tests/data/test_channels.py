"""Images with other channels than RGB, or with samples of 16 bits."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from image_files import encode, save
from PIL import Image

from segzoo.channel_decoder import decode_channels, npy_shape
from segzoo.channel_files import channel_files, is_further_file
from segzoo.data.collate import check_sample, collate
from segzoo.data.statistics.measure import measure_split
from segzoo.image_decoder import ORIENTATION, ImageError
from segzoo.inference.sources.opening import open_source
from segzoo.layers.normalize import normalize
from segzoo.pixel_format import IMAGENET, PixelFormat
from segzoo.registry import AUGMENTS, DATA, ConfigError
from segzoo.types import DataError, DatasetInfo, Sample
from segzoo.visualization.drawing import shown_rgb

CLASSES = ["background", "part"]


def samples(channels, bits, seed=0, size=(24, 30)):
    return np.random.default_rng(seed).integers(0, 2**bits, (*size, channels), dtype=f"uint{bits}")


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def by_opencv(suffix, array):
    order = [2, 1, 0, 3][: array.shape[2]] if array.shape[2] > 1 else [0]
    return cv2.imencode(suffix, np.ascontiguousarray(array[..., order]))[1].tobytes()


def test_samples_are_decoded_as_they_are_stored():
    for channels, bits in ((1, 8), (1, 16), (3, 16), (4, 8), (4, 16)):
        expected = samples(channels, bits)
        for data in (as_npy(expected), by_opencv(".png", expected), by_opencv(".tif", expected)):
            decoded, orientation = decode_channels(data, channels, bits)
            assert decoded.dtype == expected.dtype and orientation == 1
            np.testing.assert_array_equal(decoded, expected)
    for bits in (8, 16):
        expected = samples(5, bits)
        first, *others = (Image.fromarray(np.ascontiguousarray(expected[..., i])) for i in range(5))
        for compression in (None, "tiff_lzw", "tiff_deflate"):
            pages = encode(first, "TIFF", save_all=True, append_images=others, compression=compression)
            np.testing.assert_array_equal(decode_channels(pages, 5, bits)[0], expected)
    rgb = samples(3, 8)
    np.testing.assert_array_equal(decode_channels(as_npy(rgb), 3, 8)[0], rgb)
    gray = decode_channels(by_opencv(".png", rgb[..., :1]), 3, 8)[0]
    np.testing.assert_array_equal(gray, rgb[..., [0, 0, 0]])  # as ever
    big_endian = samples(2, 16).astype(">u2")
    np.testing.assert_array_equal(decode_channels(as_npy(big_endian), 2, 16)[0], big_endian)
    exif, gray = Image.Exif(), samples(1, 16)
    exif[ORIENTATION] = 6
    for form in ("PNG", "TIFF"):
        turned, orientation = decode_channels(encode(gray[..., 0], form, exif=exif), 1, 16)
        np.testing.assert_array_equal(turned[..., 0], np.rot90(gray[..., 0], -1))
        assert orientation == 6


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (as_npy(samples(3, 8)), "holds 3 channels of 8 bits, expected 1 of 16 bits.*data.channels=3 data.bits=8"),
        (as_npy(samples(1, 8).astype(np.float32)), "an array of float32, expected uint8 or uint16"),
        (as_npy(np.zeros((2, 3, 4, 1), np.uint16)), r"shape \(2, 3, 4, 1\), expected \(H, W\) or \(H, W, C\)"),
        (as_npy(samples(1, 16))[:-200], "truncated NumPy file"),
        (encode(samples(1, 8)[..., 0].astype(np.int32), "TIFF"), "of mode I, expected gray, RGB or RGBA"),
        (encode(Image.new("P", (4, 4)), "PNG"), "of mode P"),
        (
            encode(Image.new("L", (4, 4)), "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))]),
            "2 pages, expected at most 1",
        ),
        (b"\x93NUMPY\x01", "damaged NumPy file"),
    ],
    ids=range(8),
)
def test_other_samples_are_rejected(data, expected):
    with pytest.raises(ImageError, match=expected):
        decode_channels(data, 1, 16)


def build(root, split="train", **settings) -> Any:
    return DATA.build("folder", split, root=str(root), classes=CLASSES, **settings)


@pytest.fixture(scope="module")
def rgbn(tmp_path_factory):
    """Color and infrared files of two images, and the settings that read them."""
    root = tmp_path_factory.mktemp("rgbn")
    for name in "ab":
        image = samples(4, 8, ord(name))
        save(root / f"rgb/train/{name}.png", image[..., :3])
        save(root / f"nir/train/{name}.tif", image[..., 3])
        save(root / f"labels/train/{name}.png", (image[..., 0] > 99).astype(np.uint8))
    return root, {"channels": 4, "images": ["rgb/{split}/{stem}.*", "nir/{split}/{stem}.tif"]}


def test_channels_of_several_files_are_joined(rgbn, tmp_path, monkeypatch):
    root, settings = rgbn
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    dataset = build(root, **settings)
    np.testing.assert_array_equal(dataset[1].image, samples(4, 8, ord("b")))
    np.testing.assert_array_equal(dataset.image(1), dataset[1].image)
    for cache in ("disk", "ram"):
        cached = build(root, cache=cache, **settings)
        cached.load()
        for _ in range(2):
            np.testing.assert_array_equal(cached[1].image, dataset[1].image)
            np.testing.assert_array_equal(cached[1].label, dataset[1].label)
    found = measure_split("train", dataset)
    pixels = np.concatenate([dataset[i].image.reshape(-1, 4) for i in range(2)])
    np.testing.assert_allclose(found.mean_and_std(), [pixels.mean(0), pixels.std(0)])
    check_sample(dataset[0], dataset.info)
    with pytest.raises(DataError, match=r"expected an image \(H, W, 3\) uint8"):
        check_sample(dataset[0], DatasetInfo("x", tuple(CLASSES), ((0, 0, 0), (1, 1, 1))))
    with pytest.raises(DataError, match="holds 4 channels of 8 bits, expected 3"):
        build(root, **settings | {"channels": 3})[0]
    with pytest.raises(DataError, match=r"1 of 3 pairs have no image nir/train/\{stem\}.tif: c"):
        save(root / "rgb/train/c.png", samples(3, 8))
        save(root / "labels/train/c.png", np.zeros((24, 30), np.uint8))
        build(root, **settings).scan()


def test_files_of_new_images_are_found_by_the_patterns_of_the_training(tmp_path):
    patterns = ["rgb/{split}/{stem}.png", "{split}_nir/{stem}.*"]
    for name in ("rgb/train/a.png", "train_nir/a.tif", "rgb/train/b.png"):
        save(tmp_path / name, samples(1, 8)[..., 0])
    first, further = tmp_path / "rgb/train/a.png", tmp_path / "train_nir/a.tif"
    assert channel_files(first, patterns) == [first, further]
    assert [is_further_file(path, patterns) for path in (first, further, tmp_path / "c.npy")] == [False, True, False]
    assert channel_files(tmp_path / "c.npy", patterns) == [tmp_path / "c.npy"]
    assert channel_files(first, []) == [first] and not is_further_file(first, [])
    with pytest.raises(ImageError, match="is one of 2 files of an image, of which .*train_nir/b.* is missing"):
        channel_files(tmp_path / "rgb/train/b.png", patterns)
    for folder in ("rgb", "nir"):  # the folder of the split is absent
        save(tmp_path / f"new/{folder}/x/1.png", samples(1, 8)[..., 0])
    files = channel_files(tmp_path / "new/rgb/x/1.png", ["rgb/{split}/{stem}.png", "nir/{split}/{stem}.png"])
    assert files[1] == tmp_path / "new/nir/x/1.png"


def test_16_bits_stay_as_they_are_to_the_network(tmp_path):
    image = samples(1, 16)
    (tmp_path / "images/train").mkdir(parents=True)
    np.save(tmp_path / "images/train/a.npy", image[..., 0])
    save(tmp_path / "labels/train/a.png", np.zeros(image.shape[:2], np.uint8))
    settings: Any = {"channels": 1, "bits": 16, "images": "images/{split}/{stem}.npy"}
    dataset = build(tmp_path, mean=[30000.5], std=[1234.5], **settings)
    batch: Any = collate([(dataset[0], 0)] * 2)
    assert batch.image.dtype == torch.uint16
    x = normalize(batch.image, dataset.info, torch.device("cpu"))
    expected = (image.astype(np.float64) - 30000.5) / 1234.5
    np.testing.assert_allclose(x[1].permute(1, 2, 0).numpy(), expected, rtol=1e-5, atol=1e-5)
    assert DatasetInfo.from_dict(dataset.info.to_dict()) == dataset.info and "bits" in dataset.info.to_dict()
    assert build(tmp_path, **settings).info.normalization == ((32767.5,), (16383.75,))
    with pytest.raises(DataError, match="holds 1 channel of 16 bits, expected 1 of 8 bits"):
        build(tmp_path, **settings | {"bits": 8})[0]


def test_rgb_info_is_stored_as_before():
    info = build("nowhere").info
    assert info.normalization == IMAGENET
    assert list(info.to_dict()) == ["name", "classes", "palette", "mean", "std", "ignore", "label_map"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"channels": 4, "mean": [1.0, 2.0, 3.0]}, "data.mean has 3 values for data.channels=4"),
        ({"std": [300.0, 1.0, 1.0]}, "data.bits=8 go up to 255"),
        ({"bits": 16, "mean": list(IMAGENET.mean)}, r"is ImageNet's for samples of 8 bits.*31784.475"),
        ({"channels": 2, "show_channels": [2]}, r"show_channels=\[2\]: expected .* from 0 to 1"),
        ({"channels": 4, "show_channels": [0, 1]}, r"show_channels=\[0, 1\]: expected"),
        ({"images": []}, "data.images is empty"),
        ({"images": ["a/{split}/{stem}.png", "b/{split}.png"]}, r"data.images='b/\{split\}.png': the pattern must contain"),
    ],
)
def test_settings_that_do_not_fit_are_rejected(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        build("nowhere", **settings)


@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (4, 8), (6, 16)])
def test_augmentation_treats_all_channels_alike(channels, bits):
    """A flip, a crop, a rotation and a blur of each channel alone are those of all of them."""
    info = build("nowhere", channels=channels, bits=bits).info
    augment = AUGMENTS.build("standard", info, crop=[33, 35], rotate=20, blur=0.5)
    single = AUGMENTS.build("standard", build("nowhere", channels=1, bits=bits).info, crop=[33, 35], rotate=20, blur=0.5)
    image, label = samples(channels, bits), np.zeros((24, 30), np.uint8)
    for seed in range(12):
        result = augment(Sample(image, label, "a"), seed)
        assert result.image.shape == (33, 35, channels) and result.image.dtype == image.dtype
        for i in range(channels):
            alone = single(Sample(np.ascontiguousarray(image[..., i : i + 1]), label, "a"), seed)
            difference = result.image[..., i : i + 1].astype(int) - alone.image
            assert np.abs(difference).max() <= (0 if bits == 8 else 1)  # of 65535, by rounding
    with pytest.raises(ConfigError, match="augment.color_jitter=0.5 is for 8-bit RGB.*Set augment.color_jitter=0"):
        AUGMENTS.build("standard", info, color_jitter=0.5)


def test_channels_are_chosen_to_be_shown():
    rgb, four = samples(3, 8), samples(4, 8)
    assert shown_rgb(rgb) is rgb
    np.testing.assert_array_equal(shown_rgb(four), four[..., :3])
    np.testing.assert_array_equal(shown_rgb(four, [3, 0, 1]), four[..., [3, 0, 1]])
    np.testing.assert_array_equal(shown_rgb(four, [3]), four[..., [3, 3, 3]])
    thermal = np.linspace(7000, 9000, 24 * 30).reshape(24, 30, 1).astype(np.uint16)
    shown = shown_rgb(thermal)
    assert shown.shape == (24, 30, 3) and shown.dtype == np.uint8 and (shown.min(), shown.max()) == (0, 255)


def test_ignored_pixels_are_no_class_beyond_255():
    info = DatasetInfo(
        "x", tuple("ignore" if i == 255 else f"c{i}" for i in range(300)), tuple((i % 256, i // 256, 0) for i in range(300))
    )
    label = np.array([[0, 255], [256, 299]], np.uint16)
    check_sample(Sample(np.zeros((2, 2, 3), np.uint8), label, "a"), info)
    with pytest.raises(DataError, match=r"the label holds 300 \(1 pixels\); expected train ids 0\.\.299"):
        check_sample(Sample(np.zeros((2, 2, 3), np.uint8), label + 1, "a"), info)


def test_damaged_files_of_many_channels_are_named_as_damaged():
    pages = [Image.fromarray(samples(1, 16, page)[..., 0]) for page in range(4)]
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    whole = file.getvalue()
    assert decode_channels(whole, 4, 16)[0].shape[2] == 4
    for length in range(8, len(whole), 61):
        try:
            decode_channels(whole[:length], 4, 16)
        except ImageError:  # and nothing else
            continue
    array = io.BytesIO()
    np.save(array, np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ImageError, match="damaged NumPy file"):
        npy_shape(array.getvalue().replace(b"}", b"("))


@pytest.mark.parametrize(
    "patterns", [("{split}/{stem}.png", "{split}_nir/{stem}.png"), ("{split}/{stem}.png", "{split}/{stem}_nir.png")]
)
@pytest.mark.parametrize("stem", ["a", "monday/a"])
def test_a_pattern_may_begin_with_the_split(tmp_path, patterns, stem):
    first, further = (tmp_path / pattern.format(split="train", stem=stem) for pattern in patterns)
    for path in (first, further):
        save(path, samples(1, 8)[..., 0])
    assert channel_files(first, patterns) == [first, further]
    assert not is_further_file(first, patterns) and is_further_file(further, patterns)


@pytest.mark.parametrize("suffix", [".*", ".tif"])
def test_suffixes_in_capitals_are_found_as_in_trainings(tmp_path, suffix):
    patterns = [f"rgb/{{split}}/{{stem}}{suffix}", f"nir/{{split}}/{{stem}}{suffix}"]
    first, further = tmp_path / "rgb/train/a.TIF", tmp_path / "nir/train/a.TIF"
    for path in (first, further):
        save(path, samples(1, 8)[..., 0])
    assert channel_files(first, patterns) == [first, further]
    assert not is_further_file(first, patterns) and is_further_file(further, patterns)


def test_a_folder_of_further_channels_is_no_source(tmp_path):
    patterns = ["rgb/{split}/{stem}.png", "nir/{split}/{stem}.png"]
    for path in (tmp_path / "rgb/train/a.png", tmp_path / "nir/train/a.png"):
        save(path, samples(1, 8)[..., 0])
    with pytest.raises(
        ConfigError, match=r"nir holds further channels of images only. Give the files of .* rgb/\{split\}/\{stem\}.png"
    ):
        open_source(tmp_path / "out", pixels=PixelFormat(4, 8), patterns=patterns, source=str(tmp_path / "nir"))
    assert open_source(tmp_path / "out", pixels=PixelFormat(4, 8), patterns=patterns, source=str(tmp_path)).total == 1
