"""Orientation tags of images, masks and LabelMe files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_files import build_folder, noise, save, smooth
from PIL import Image, PngImagePlugin, TiffImagePlugin

from segzoo.data.datasets.labelme import LabelMeShapes
from segzoo.data.image_io import read_color_mask, read_header, read_image, read_mask, read_turned_image
from segzoo.image_decoder import turn_upright
from segzoo.registry import DATA
from segzoo.types import DataError

TRANSPOSES = {  # from the upright image to the stored pixels, as Pillow names them
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
LABEL = (np.add.outer(np.arange(40) // 7, np.arange(56) // 9) % 3).astype(np.uint8)


def stored_pixels(upright: np.ndarray, orientation: int) -> np.ndarray:
    transpose = TRANSPOSES[orientation]
    return np.asarray(Image.fromarray(upright).transpose(transpose) if transpose is not None else upright)


def save_turned(path: Path, upright: np.ndarray, orientation: int, form: str, mode: str | None = None, **options) -> Path:
    """Store pixels turned, with the tag that turns them back."""
    image = Image.fromarray(stored_pixels(upright, orientation))
    image = image if mode is None else image.convert(mode)
    if form == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[274] = orientation
        return save(path, image, form, tiffinfo=tags, **options)
    exif = Image.Exif()
    exif[274] = orientation
    return save(path, image, form, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF deflate"])
def test_images_are_read_upright(tmp_path, form, orientation):
    kind, _, compression = form.partition(" ")
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    if compression:
        options = {"compression": "tiff_deflate"}
    image = read_image(save_turned(tmp_path / "a", smooth(), orientation, kind, **options))
    assert image.shape == smooth().shape and image.flags["C_CONTIGUOUS"] and image.flags["WRITEABLE"]
    assert np.abs(image.astype(int) - smooth()).mean() < (2 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_masks_are_turned_by_their_own_tag(tmp_path, form, orientation):
    np.testing.assert_array_equal(read_mask(save_turned(tmp_path / "a", LABEL, orientation, form)), LABEL)
    deep = LABEL.astype(np.uint16) * 300
    np.testing.assert_array_equal(read_mask(save_turned(tmp_path / "b", deep, orientation, form)), deep)
    np.testing.assert_array_equal(read_color_mask(save_turned(tmp_path / "c", noise(), orientation, form))[0], noise())


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_invalid_orientation_is_none(tmp_path, value):
    exif = Image.Exif()
    exif[274] = value
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", noise(), exif=exif)), noise())
    np.testing.assert_array_equal(read_image(save(tmp_path / "b.png", noise(), exif=b"Exif\0\0MM\0*garbage")), noise())


def make_folder(root: Path, orientation: int, label: np.ndarray, image: np.ndarray | None = None) -> None:
    save_turned(root / "images/train/a.jpg", smooth() if image is None else image, orientation, "JPEG", quality=95)
    save(root / "labels/train/a.png", label)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_the_size_tells_what_a_mask_belongs_to(tmp_path, orientation, drawn_on):
    make_folder(tmp_path, orientation, LABEL if drawn_on == "upright" else stored_pixels(LABEL, orientation))
    for setting in (None, "upright", "stored"):  # the size is proof, whatever the setting
        sample = build_folder(tmp_path, label_orientation=setting)[0]
        assert np.abs(sample.image.astype(int) - smooth()).mean() < 2
        np.testing.assert_array_equal(sample.label, LABEL)


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
@pytest.mark.parametrize("masks", ["index", "color"])
def test_masks_that_fit_both_readings_need_a_setting(tmp_path, orientation, masks):
    square = smooth(40, 40) if orientation == 6 else smooth()
    ids = LABEL[: square.shape[0], : square.shape[1]]
    palette = ((0, 0, 0), (9, 200, 1), (77, 0, 5))
    encoded = np.array(palette, np.uint8)[ids] if masks == "color" else ids
    settings = {"masks": masks, "palette": palette}
    make_folder(tmp_path, orientation, encoded, square)
    with pytest.raises(
        DataError, match=rf"a\.png: its image has the EXIF orientation {orientation}.*data\.label_orientation=upright"
    ):
        build_folder(tmp_path, **settings)[0]
    np.testing.assert_array_equal(build_folder(tmp_path, label_orientation="upright", **settings)[0].label, ids)
    make_folder(tmp_path, orientation, stored_pixels(encoded, orientation), square)
    np.testing.assert_array_equal(build_folder(tmp_path, label_orientation="stored", **settings)[0].label, ids)


def test_a_mask_with_its_own_tag_needs_no_setting(tmp_path):
    make_folder(tmp_path, 3, LABEL)
    save_turned(tmp_path / "labels/train/a.png", LABEL, 3, "PNG")
    for setting in (None, "stored"):
        np.testing.assert_array_equal(build_folder(tmp_path, label_orientation=setting)[0].label, LABEL)


def test_a_label_that_fits_neither_reading_is_rejected(tmp_path):
    make_folder(tmp_path, 6, LABEL[:-1])
    with pytest.raises(DataError, match=r"made for 56x39 pixels .* its image has 56x40"):
        build_folder(tmp_path)[0]


TRIANGLE = [[5, 5], [40, 8], [20, 30]]


def drawn(points: list, size: tuple[int, int], **fields) -> dict:
    shape = {"label": "b", "points": points, "shape_type": "polygon"}
    return {"version": "5.5.0", "shapes": [shape], "imageHeight": size[0], "imageWidth": size[1]} | fields


def build_labelme(root: Path, orientation: int, record: dict, image: np.ndarray | None = None, **options):
    save_turned(root / "train/a.jpg", smooth() if image is None else image, orientation, "JPEG", quality=95)
    (root / "train/a.json").write_text(json.dumps(record))
    return DATA.build("labelme", "train", root=str(root), classes=("bg", "b"), **options)


@pytest.fixture
def triangle(tmp_path) -> np.ndarray:
    (tmp_path / "t.json").write_text(json.dumps(drawn(TRIANGLE, (40, 56))))
    return LabelMeShapes(("bg", "b"), {}, 2.0)(tmp_path / "t.json", (40, 56))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labelme_draws_on_the_upright_image(tmp_path, triangle, orientation):
    sample = build_labelme(tmp_path, orientation, drawn(TRIANGLE, (40, 56)))[0]
    assert np.abs(sample.image.astype(int) - smooth()).mean() < 2
    np.testing.assert_array_equal(sample.label, triangle)


def test_labelme_files_of_stored_pixels(tmp_path, triangle):
    # orientation 6: stored (x, y) is upright (39 - y, x) in pixels of a 40x56 (H x W) image stored as 56x40
    points = [[y, 55 - x] for x, y in TRIANGLE]
    sample = build_labelme(tmp_path, 6, drawn(points, (56, 40), version="3.6.0"))[0]
    (tmp_path / "s.json").write_text(json.dumps(drawn(points, (56, 40))))
    expected = turn_upright(LabelMeShapes(("bg", "b"), {}, 2.0)(tmp_path / "s.json", (56, 40)), 6)
    np.testing.assert_array_equal(sample.label, expected)
    assert expected.shape == (40, 56) and np.mean(expected != triangle) < 0.05 < triangle.mean()


def test_labelme_files_since_version_4_are_upright_whatever_the_setting(tmp_path, triangle):
    sample = build_labelme(tmp_path, 3, drawn(TRIANGLE, (40, 56)), label_orientation="stored")[0]
    np.testing.assert_array_equal(sample.label, triangle)


@pytest.mark.parametrize("version", ["3.6.0", "2.3.6", None, "x"])
def test_labelme_files_below_version_4_need_a_setting(tmp_path, triangle, version):
    record = drawn(TRIANGLE, (40, 56), version=version)
    with pytest.raises(DataError, match=r"a\.json: .*orientation 3.*data\.label_orientation=stored"):
        build_labelme(tmp_path, 3, record)[0]
    np.testing.assert_array_equal(build_labelme(tmp_path, 3, record, label_orientation="upright")[0].label, triangle)
    np.testing.assert_array_equal(build_labelme(tmp_path, 3, record, label_orientation="stored")[0].label, triangle[::-1, ::-1])


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_head_of_a_png_tells_what_decoding_finds(tmp_path, place):
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    xmp += '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><tiff:Orientation>6</tiff:Orientation></rdf:Description>'
    info = PngImagePlugin.PngInfo()
    info.add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + f"{xmp}</rdf:RDF></x:xmpmeta>".encode(), after_idat=place == "after")
    path = save(tmp_path / "a.png", noise(20, 30), pnginfo=info)
    image, orientation = read_turned_image(path)
    assert read_header(path) == (image.shape[:2], orientation) and image.shape[:2] == (30, 20)
