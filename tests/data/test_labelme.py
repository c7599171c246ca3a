"""LabelMe annotations: rasterization and errors.

The rasterization is checked against independent geometry. Errors name file and shape.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import settings_from
from PIL import Image, ImageDraw

from segzoo.data.datasets.labelme import LabelMeShapes
from segzoo.registry import DATA, ConfigError
from segzoo.types import IGNORE, DataError

DATA_ROOT = os.environ.get("SEGZOO_DATA", "")
CLASSES = ("background", "pitting", "scratch")
SIZE = (60, 90)  # (H, W)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shape(label: Any, points: Any, kind: Any = "polygon", **more: Any) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}} | more


def record(*shapes: dict, **changed) -> dict:
    height, width = SIZE
    fields = {"version": "4.5.6", "flags": {}, "imagePath": "a.jpg", "imageData": None, "imageHeight": height, "imageWidth": width}
    return fields | {"shapes": list(shapes)} | changed


def draw(tmp_path: Path, *shapes: dict, clip_px: float = 2.0, names: dict[str, str] | None = None, **changed) -> np.ndarray:
    (tmp_path / "a.json").write_text(json.dumps(record(*shapes, **changed)), encoding="utf-8")
    return LabelMeShapes(CLASSES, names or {}, clip_px)(tmp_path / "a.json", SIZE)


def make(root: Path, split: str = "train", stems=("a", "b")) -> None:
    for stem in stems:
        (root / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIZE[1], SIZE[0])).save(root / f"{split}/{stem}.png")
        triangle = shape("pitting", [[5, 5], [40, 8], [20, 50]])
        (root / f"{split}/{stem}.json").write_text(json.dumps(record(triangle)), encoding="utf-8")


def build(root: Path, split: str = "train", **options):
    return DATA.build("labelme", split, root=str(root), **{"classes": CLASSES} | options)


# --- geometry

corner = st.tuples(st.floats(0, SIZE[1]), st.floats(0, SIZE[0]))


def shoelace(points: np.ndarray) -> float:
    x, y = points.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


@quick
@given(angles=st.lists(st.floats(0, 2 * math.pi), min_size=3, max_size=9), radius=st.floats(2, 28))
def test_area_of_a_convex_polygon(tmp_path, angles, radius):
    points = np.array([(45 + radius * math.cos(a), 30 + radius * math.sin(a)) for a in sorted(angles)])
    perimeter = np.hypot(*(points - np.roll(points, 1, axis=0)).T).sum()
    area = float((draw(tmp_path, shape("pitting", points.tolist())) == 1).sum())
    assert abs(area - shoelace(points)) <= 1.1 * perimeter + 4
    assert area >= shoelace(points) - 0.6 * perimeter  # a shape includes its outline, so it is hardly ever smaller


@quick
@given(points=st.lists(corner, min_size=3, max_size=8))
def test_a_polygon_covers_exactly_the_pixels_inside_it(tmp_path, points):
    label = draw(tmp_path, shape("scratch", [list(point) for point in points]))
    centers = np.array(points, np.float32) - 0.5  # pixel centers at whole numbers
    contour = centers.reshape(-1, 1, 2)
    for y in range(0, SIZE[0], 3):
        for x in range(0, SIZE[1], 3):
            distance = cv2.pointPolygonTest(contour, (float(x), float(y)), True)
            if abs(distance) > 1.5:
                assert label[y, x] == (2 if distance > 0 else 0), (x, y, distance)


@quick
@given(points=st.lists(st.tuples(st.integers(0, SIZE[1] - 1), st.integers(0, SIZE[0] - 1)), min_size=3, max_size=3, unique=True))
def test_triangles_agree_with_pillow_up_to_the_outline(tmp_path, points):
    canvas = Image.new("L", (SIZE[1], SIZE[0]))
    ImageDraw.Draw(canvas).polygon(points, fill=1, outline=1)
    label = draw(tmp_path, shape("pitting", [list(point) for point in points]))
    outline = np.zeros(SIZE, np.uint8)
    cv2.polylines(outline, [np.array(points, np.int32)], True, 1, thickness=3)
    assert ((label == np.asarray(canvas)) | (outline == 1)).all()


@pytest.mark.parametrize("points", [[[10, 5], [19.5, 8.9]], [[19.5, 8.9], [10, 5]], [[10, 8.9], [19.5, 5]]])
def test_rectangle_corners_may_come_in_any_order(tmp_path, points):
    expected = np.zeros(SIZE, np.uint8)
    expected[5:9, 10:20] = 1
    np.testing.assert_array_equal(draw(tmp_path, shape("pitting", points, "rectangle")), expected)


@pytest.mark.parametrize("radius", [0, 1, 3.4, 10, 25])
def test_circle(tmp_path, radius):
    label = draw(tmp_path, shape("pitting", [[45.5, 30.5], [45.5 + radius, 30.5]], "circle"))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(x - 45, y - 30)
    assert (label[distance <= radius - 1] == 1).all() and (label[distance >= radius + 1.5] == 0).all() and label[30, 45] == 1


def test_circle_may_extend_beyond_the_border(tmp_path):
    label = draw(tmp_path, shape("pitting", [[2, 30], [2, 50]], "circle"))
    assert label[30, 0] == 1 and label[30, 21] == 1 and label[30, 24] == 0


def test_later_shapes_cover_earlier_ones(tmp_path):
    large, small = shape("pitting", [[0, 0], [50, 50]], "rectangle"), shape("scratch", [[10, 10], [20, 20]], "rectangle")
    assert draw(tmp_path, large, small)[15, 15] == 2
    assert draw(tmp_path, small, large)[15, 15] == 1


def test_shapes_without_a_type_are_polygons(tmp_path):
    triangle = shape("pitting", [[5, 5], [40, 8], [20, 50]])
    del triangle["shape_type"]
    np.testing.assert_array_equal(draw(tmp_path, triangle), draw(tmp_path, shape("pitting", [[5, 5], [40, 8], [20, 50]])))


def test_points_slightly_outside_move_to_the_border(tmp_path):
    label = draw(tmp_path, shape("pitting", [[-1.5, -1], [91.9, 61.5]], "rectangle"))
    assert (label == 1).all()
    with pytest.raises(
        DataError, match=r"a\.json, shape 1 .*point \(93, 10\) lies 3\.0 pixels outside the image of 90x60.*data\.clip_px=2"
    ):
        draw(tmp_path, shape("pitting", [[5, 5], [93, 10], [20, 50]]))
    assert draw(tmp_path, shape("pitting", [[5, 5], [93, 10], [20, 50]]), clip_px=3).any()


# --- labels and errors


def test_names_map_labels_to_classes_and_to_ignore(tmp_path):
    names = {"Pitting": "pitting", "лунка": "scratch", "unsure": "ignore"}
    shapes = [shape(label, [[x, 0], [x + 5, 5]], "rectangle") for label, x in (("Pitting", 0), ("лунка", 20), ("unsure", 40))]
    label = draw(tmp_path, *shapes, names=names)
    assert [label[2, x] for x in (2, 22, 42, 60)] == [1, 2, IGNORE, 0]


TRIANGLE = [[5, 5], [40, 8], [20, 50]]
INVALID_SHAPES = {
    "label": (
        shape("piting", TRIANGLE),
        r"label 'piting' is not known\. Did you mean 'pitting'\? Valid: background, pitting, scratch.*data\.names",
    ),
    "cyrillic": (shape("яма", TRIANGLE), "label 'яма' is not known"),
    "no label": (shape(None, TRIANGLE), "label 'None' is not known"),
    "label not a string": (shape(["a"], TRIANGLE), "is not known"),
    "odd type": (shape("pitting", TRIANGLE, kind=["polygon"]), "is not supported"),
    "two points": (shape("pitting", [[1, 1], [2, 2]]), "polygon with 2 points, expected at least 3"),
    "no points": (shape("pitting", []), "polygon with 0 points"),
    "three corners": (shape("pitting", TRIANGLE, "rectangle"), "rectangle with 3 points, expected 2 or 4"),
    "nan": (shape("pitting", [[1, 1], [float("nan"), 2], [3, 3]]), "list of"),
    "overflow": (shape("pitting", [[1, 1], [10**400, 2], [3, 3]]), "list of"),
    "strings": (shape("pitting", [["1", 1], [2, 2], [3, 3]]), "list of"),
    "ragged": (shape("pitting", [[1, 1], [2], [3, 3]]), "list of"),
    "missing": ({"label": "pitting"}, "list of"),
    "not an object": ([1, 2], "is of type list, expected an object"),
}


@pytest.mark.parametrize("problem", INVALID_SHAPES)
def test_invalid_shapes_are_named(tmp_path, problem):
    invalid, expected = INVALID_SHAPES[problem]
    with pytest.raises(DataError, match=rf"a\.json, shape 2.*{expected}"):
        draw(tmp_path, shape("pitting", TRIANGLE), invalid)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"<html>", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"shapes": "\xff\xfe"}', "is not UTF-8 text"),
        (b"[]", "not a LabelMe file"),
        (b'{"images": [], "annotations": []}', "no list 'shapes'"),
        (b'{"shapes": null}', "no list 'shapes'"),
    ],
)
def test_other_files_are_rejected(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.json: .*{expected}"):
        LabelMeShapes(CLASSES, {}, 2.0)(tmp_path / "a.json", SIZE)


def test_size_in_the_file_must_match_the_image(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: made for 90x61 pixels .* its image has 90x60"):
        draw(tmp_path, imageHeight=61)
    with pytest.raises(DataError, match="swapped: was the image rotated"):
        draw(tmp_path, imageHeight=90, imageWidth=60)
    assert not draw(tmp_path, imageHeight=None, imageWidth=None).any()


def test_embedded_images_are_not_needed(tmp_path):
    make(tmp_path)
    triangle = shape("pitting", TRIANGLE)
    (tmp_path / "train/a.json").write_text(json.dumps(record(triangle, imageData="!not base64 at all")))
    data = build(tmp_path)
    np.testing.assert_array_equal(data[0].label, data[1].label)
    assert data[0].label.dtype == np.uint8 and data[0].image.shape == (*SIZE, 3) and data.name(0) == "a"


def test_unpaired_files(tmp_path):
    make(tmp_path, stems=("a", "b", "c"))
    (tmp_path / "train/b.json").unlink()
    with pytest.raises(
        DataError, match=r"1 of 3 pairs have no label train/\{stem\}\.json: b\. With data\.unlabeled=background, images"
    ):
        len(build(tmp_path))
    data = build(tmp_path, unlabeled="background")
    assert len(data) == 3 and not data[1].label.any() and data[1].label.shape == SIZE and data[0].label.any()
    (tmp_path / "train/c.png").unlink()
    for choice in ("error", "background"):
        with pytest.raises(
            DataError, match=r"1 of 3 pairs have no image .*: c\. An image embedded in a JSON file .imageData. is not read"
        ):
            len(build(tmp_path, unlabeled=choice))


def test_json_in_another_folder_by_lists(tmp_path):
    make(tmp_path / "x", split="all", stems=("a", "b", "c"))
    (tmp_path / "json").mkdir()
    for path in (tmp_path / "x/all").glob("*.json"):
        path.rename(tmp_path / "json" / path.name)
    (tmp_path / "train.txt").write_text("c\na\n")
    data = build(tmp_path, images="x/all/{stem}.*", labels="json/{stem}.json", lists="{split}.txt")
    assert [data.name(i) for i in range(len(data))] == ["c", "a"] and (data[0].label == 1).any()


def test_invalid_settings():
    with pytest.raises(ConfigError, match=r"data\.names\.Pit: the class 'piting' is not known\. Did you mean 'pitting'\?.*ignore"):
        build(Path("x"), names={"Pit": "piting"})
    with pytest.raises(ConfigError, match="clip_px"):
        build(Path("x"), clip_px=-1)
    assert build(Path("nowhere")).info.num_classes == 3  # no file is opened


@pytest.mark.data
@pytest.mark.skipif(not DATA_ROOT, reason="SEGZOO_DATA is not set")
def test_all_of_bsdata_loads():
    name, options = settings_from("bsdata")
    sets = [DATA.build(name, split, **options) for split in ("train", "val")]
    assert [len(data) for data in sets] == [238, 52]
    names = [{data.name(i) for i in range(len(data))} for data in sets]
    assert not names[0] & names[1]
    for data in sets:
        drawn = annotated = 0.0
        for index, pair in enumerate(data.scan()):
            sample = data[index]
            assert sample.label.shape == sample.image.shape[:2] and set(np.unique(sample.label)) == {0, 1}
            drawn += float(sample.label.sum())
            annotated += sum(shoelace(np.array(s["points"])) for s in json.loads(pair.label.read_text())["shapes"])
        assert 1 < drawn / annotated < 1.1  # the outline belongs to a shape


def test_the_background_is_the_first_class(tmp_path):
    make(tmp_path)
    with pytest.raises(ConfigError, match=r"background is class 1, .* Set 'data\.classes=\[background,pitting\]'"):
        build(tmp_path, classes=("pitting", "background"))
    path = tmp_path / "train/a.json"
    notes = build(tmp_path, classes=("pitting", "scratch")).reader.survey(path, SIZE).notes
    assert len(notes) == 1 and "'pitting', the first class" in notes[0]
    assert "'data.classes=[background,pitting,scratch]'" in notes[0]
    assert not build(tmp_path).reader.survey(path, SIZE).notes
