"""Shapes and labels of today's annotation tools in LabelMe files."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzoo.data.datasets.labelme import LabelMeShapes
from segzoo.registry import DATA, ConfigError
from segzoo.types import IGNORE, DataError

CLASSES = ("background", "pitting", "scratch")
SIZE = (60, 90)  # (H, W)
SQUARE = [[10, 5], [30, 5], [30, 25], [10, 25]]


def shape(label: Any, points: Any, kind: Any = "polygon", **more: Any) -> dict:
    return {"label": label, "points": points, "shape_type": kind} | more


def bitmap(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def draw(
    folder: Path, *shapes: Any, names: dict[str, str] | None = None, classes=CLASSES, encoding="utf-8", **options: Any
) -> np.ndarray:
    text = json.dumps({"version": "5.5.0", "shapes": shapes, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}, ensure_ascii=False)
    (folder / "a.json").write_bytes(text.encode(encoding))
    return LabelMeShapes(classes, names or {}, 2.0, **options)(folder / "a.json", SIZE)


def test_mask_shapes_are_laid_at_their_first_point(tmp_path):
    pixels = np.random.default_rng(0).random((12, 20)) < 0.5
    expected = np.zeros(SIZE, np.uint8)
    expected[7:19, 30:50][pixels] = 2
    for stored in (pixels, pixels.astype(np.uint8), pixels * np.uint8(255)):
        label = draw(tmp_path, shape("scratch", [[30.0, 7.0], [49.0, 18.0]], "mask", mask=bitmap(stored)))
        np.testing.assert_array_equal(label, expected)
    beyond = draw(tmp_path, shape("scratch", [[-2, 50], [17, 61]], "mask", mask=bitmap(pixels | True)))
    assert (beyond[50:, :18] == 2).all() and not beyond[:50].any() and not beyond[:, 18:].any()


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (bitmap(np.ones((12, 21), bool)), r"mask of 21x12 pixels \(W x H\), but its points span 20x12"),
        ("!not base64", "is not base64 text"),
        (None, "is not base64 text"),
        (bitmap(np.ones((12, 20), bool))[:60], "the pixels of the mask cannot be read"),
        (base64.b64encode(b"<html>").decode(), "is a web page"),
    ],
)
def test_invalid_mask_shapes_are_rejected(tmp_path, mask, expected):
    with pytest.raises(DataError, match=rf"a\.json, shape 1 \(label 'scratch'\): .*{expected}.*Save it with LabelMe again"):
        draw(tmp_path, shape("scratch", [[30, 7], [49, 18]], "mask", mask=mask))


@pytest.mark.parametrize("kind", ["rectangle", "rotation", "oriented_rectangle", "quadrilateral", None])
def test_rectangles_of_four_points_are_polygons(tmp_path, kind):
    turned = [[45, 10], [65, 30], [45, 50], [25, 30]]
    for points in (SQUARE, turned, [*SQUARE[::-1]]):
        expected = draw(tmp_path, shape("pitting", points))
        np.testing.assert_array_equal(draw(tmp_path, shape("pitting", points, kind)), expected)
    two_corners = draw(tmp_path, shape("pitting", [SQUARE[0], SQUARE[2]], "rectangle"))
    np.testing.assert_array_equal(draw(tmp_path, shape("pitting", SQUARE, kind)), two_corners)


def test_a_closed_polygon_equals_an_open_one(tmp_path):
    np.testing.assert_array_equal(draw(tmp_path, shape("pitting", [*SQUARE, SQUARE[0]])), draw(tmp_path, shape("pitting", SQUARE)))


def test_no_shapes_are_all_background(tmp_path):
    assert not draw(tmp_path).any()


LINES = {
    "line": [[10, 30], [50, 30]],
    "linestrip": [[10, 30], [30, 30], [50, 30]],
    "point": [[30, 30]],
    "points": [[10, 30], [50, 30]],
}


@pytest.mark.parametrize("kind", LINES)
def test_lines_and_points_need_a_width_or_are_left_out(tmp_path, kind):
    line = shape("pitting", LINES[kind], kind)
    with pytest.raises(DataError, match=rf"a {kind} covers no area. Set data.line_px=3 .*'data.skip_shapes=\[{kind}\]'"):
        draw(tmp_path, line)
    assert not draw(tmp_path, line, skip_shapes=(kind,)).any()
    for width in (1, 3, 7):
        label = draw(tmp_path, line, line_px=width)
        across = label[:, 40 if "line" in kind else int(LINES[kind][0][0])]
        assert np.flatnonzero(across).tolist() == list(range(30 - width // 2, 31 + width // 2))


def test_unknown_types_can_be_left_out(tmp_path):
    cuboid = shape("pitting", SQUARE, "cuboid")
    with pytest.raises(DataError, match=r"'cuboid' is not supported. Valid: polygon, .*'data.skip_shapes=\[line,cuboid\]'"):
        draw(tmp_path, cuboid, skip_shapes=("line",))
    assert not draw(tmp_path, cuboid, skip_shapes=("cuboid",)).any()
    with pytest.raises(ConfigError, match="the type 'linestirp' is not known. Did you mean 'linestrip'"):
        DATA.build("labelme", "train", root="x", classes=CLASSES, skip_shapes=["linestirp"])


def test_labels_of_labelme_itself_are_known(tmp_path):
    shapes = shape("__ignore__", SQUARE), shape("_background_", [[12, 8], [20, 12]], "rectangle")
    label = draw(tmp_path, *shapes)
    assert (label[15, 15], label[10, 15], label[40, 40]) == (IGNORE, 0, 0)
    assert draw(tmp_path, shapes[0], classes=("background", "__ignore__"))[15, 15] == 1


@pytest.mark.parametrize("label", ["pitting ", "\tpitting", "Pitting", "PITTING\n"])
def test_blanks_and_case_of_a_label_do_not_matter(tmp_path, label):
    assert draw(tmp_path, shape(label, SQUARE))[15, 15] == 1


def test_case_decides_between_classes_that_differ_in_it_alone(tmp_path):
    classes = ("background", "Pit", "pit")
    assert draw(tmp_path, shape("pit", SQUARE), classes=classes)[15, 15] == 2
    with pytest.raises(DataError, match="label 'PIT' is not known"):
        draw(tmp_path, shape("PIT", SQUARE), classes=classes)


def test_labels_may_be_whole_numbers(tmp_path):
    assert draw(tmp_path, shape(1, SQUARE), classes=("bg", "1"))[15, 15] == 1
    with pytest.raises(DataError, match=r"the label '7' is not known.*such as 'data.names=\{7:ignore\}'"):
        draw(tmp_path, shape(7, SQUARE))
    data = DATA.build("labelme", "train", root="x", classes=CLASSES, names={7: "scratch", "hole ": "pitting"})
    assert data.reader.rules.ids["7"] == 2 and data.reader.rules.ids["hole"] == 1


def test_the_fix_for_an_unknown_label_can_be_typed(tmp_path):
    with pytest.raises(DataError, match=r"such as 'data.names=\{a:pitting,deep scrach:scratch\}'"):
        draw(tmp_path, shape("deep scrach", SQUARE), names={"a": "pitting"}, classes=(*CLASSES, "deep scratch")[:3])
    with pytest.raises(DataError, match=r"such as an entry '裂缝': ignore in 'names' in the data set's YAML"):
        draw(tmp_path, shape("裂缝", SQUARE))


def test_all_invalid_shapes_of_a_file_are_listed(tmp_path):
    with pytest.raises(DataError) as caught:
        draw(tmp_path, shape("hole", SQUARE), shape("pitting", SQUARE), *[shape("pitting", SQUARE[:2])] * 7)
    lines = str(caught.value).splitlines()
    assert "shape 1 (label 'hole'): the label" in lines[0] and "shape 3 (label 'pitting'): polygon with 2 points" in lines[1]
    assert len(lines) == 6 and lines[-1].endswith("a.json: 3 more of its 9 shapes are invalid.")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_with_a_byte_order_mark_are_read(tmp_path, encoding):
    classes = ("background", "划痕")
    assert draw(tmp_path, shape("划痕", SQUARE), classes=classes, encoding=encoding)[15, 15] == 1


def test_other_encodings_are_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: is not UTF-8 text \(is it GBK.*iconv -f GBK -t UTF-8"):
        draw(tmp_path, shape("划痕", SQUARE), encoding="gbk")


@pytest.mark.integration
def test_a_polygon_of_a_great_many_points_is_drawn_or_rejected(tmp_path):
    angle = np.linspace(0, 2 * np.pi, 100_000)
    circle = np.stack([45 + 25 * np.cos(angle), 30 + 25 * np.sin(angle)], axis=1)
    assert abs(int((draw(tmp_path, shape("pitting", circle.tolist())) == 1).sum()) - np.pi * 25**2) < 100
    noise = np.random.default_rng(0).uniform(0, 60, (100_000, 2))
    with pytest.raises(DataError, match=r"outline of 100000 points crosses one row of pixels \d+ times.*Redraw it"):
        draw(tmp_path, shape("pitting", noise.tolist()))


def test_a_shape_inside_of_another_of_its_group_is_a_hole(tmp_path):
    inner, island = [[15, 10], [25, 10], [25, 20], [15, 20]], [[19, 14], [21, 14], [21, 16], [19, 16]]
    parts = [shape("scratch", points, group_id=3) for points in (island, SQUARE, inner)]
    label = draw(tmp_path, shape("pitting", inner), *parts)
    assert (label[15, 20], label[12, 17], label[7, 12]) == (2, 1, 2)  # the hole shows what is below
    other = draw(tmp_path, shape("scratch", SQUARE, group_id=3), shape("pitting", inner, group_id=3))
    assert (other[12, 17], other[7, 12]) == (1, 2)  # another label is another object
    assert (draw(tmp_path, shape("scratch", SQUARE, group_id=3), shape("scratch", SQUARE, group_id=3))[5:26, 10:31] == 2).all()


@pytest.mark.parametrize("left", [14, 16, 20])  # overlaps the first hole, shares its edge, lies apart
def test_holes_may_touch_each_other(tmp_path, left):
    def window(column: int) -> list[list[float]]:
        return [[column, 10], [column, 20], [column + 4, 20], [column + 4, 10]]

    parts = [shape("scratch", points, group_id=3) for points in (SQUARE, window(12), window(left))]
    label = draw(tmp_path, *parts)
    assert (label[10:21, 12:17] == 0).all() and (label[10:21, left : left + 5] == 0).all()
    assert np.count_nonzero(label) == 21 * 21 - 11 * len({*range(12, 17), *range(left, left + 5)})
    np.testing.assert_array_equal(draw(tmp_path, *parts, parts[1]), label)  # a hole that is drawn twice stays one


def test_the_fix_names_a_class_and_no_label(tmp_path):
    with pytest.raises(DataError, match=r"such as 'data.names=\{scratches:scratch,scratchess:scratch\}'"):
        draw(tmp_path, shape("scratchess", SQUARE), names={"scratches": "scratch"})
    assert (draw(tmp_path, shape("ignore", SQUARE)) == 255).any()
