"""Details of the annotation formats and their errors."""

from __future__ import annotations

import json
from pathlib import Path

import annotation_files
import numpy as np
import pytest
from annotation_files import DENT, SCRATCH, SIZE, bitmap, coco_file, compress, covered, expected, outline, runs, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from image_files import noise, save

from segzoo.data.annotations.class_table import make_class_table
from segzoo.data.annotations.formats.coco import decompress_counts, read_coco
from segzoo.data.annotations.formats.cvat import read_cvat
from segzoo.data.annotations.formats.datumaro import read_datumaro
from segzoo.data.annotations.formats.supervisely import read_supervisely
from segzoo.data.annotations.formats.voc import read_voc
from segzoo.data.annotations.formats.yolo import read_yolo
from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.rasterize import Drawn, DrawSettings, draw_image, read_mask_file
from segzoo.data.annotations.regions import AnnotatedImage, Annotations, decode_runs
from segzoo.data.annotations.shapes import ShapeError
from segzoo.types import DataError


def read(reader, source: Path, **options) -> Annotations:
    return reader(source, ImageFinder([source if source.is_dir() else source.parent], "Add it."), **options)


def drawn(annotations: Annotations, number: int = 0, **options) -> Drawn:
    image = annotations.images[number]
    table = make_class_table(annotations, ("background", "dent", "scratch"), {})
    return (read_mask_file if image.mask else draw_image)(image, SIZE, 1, DrawSettings(table, **options))


# --- run lengths


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 70))))
def test_run_lengths_are_decoded_as_they_were_encoded(mask):
    assert decompress_counts(compress(runs(mask.T)).encode()) == runs(mask.T)
    np.testing.assert_array_equal(decode_runs(runs(mask.T), mask.shape, rows_first=False), mask)
    np.testing.assert_array_equal(decode_runs(runs(mask), mask.shape, rows_first=True), mask)


def test_run_lengths_of_pycocotools_are_read():
    mask = covered((10, 8, 25, 12))
    mask[3, 3] = True
    text = b"[21\\54WK" + b"0" * 29 + b"X4"  # of pycocotools 2.0.11
    np.testing.assert_array_equal(decode_runs(decompress_counts(text), SIZE, rows_first=False), mask)


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ("[21\x01", "characters that COCO does not use"),
        ("[21Q", "end within a number"),
        ([5, 5], r"run lengths of 10 pixels, expected 32x24 = 768"),
        ([-1, 769], "not whole numbers"),
        (None, "not whole numbers"),
    ],
)
def test_broken_run_lengths_are_named(tmp_path, counts, problem):
    save(tmp_path / "a.png", noise(*SIZE))
    rle = annotation_files.coco_annotation(4, 0, 7, {"size": list(SIZE), "counts": counts}, bbox=[1, 1, 2, 2])
    result = drawn(read(read_coco, write(tmp_path / "x.json", coco_file(["a"], [rle]))))
    assert len(result.errors) == 1 and result.counts == {"broken": 1}
    with pytest.raises(ShapeError, match=problem):
        counts = decompress_counts(counts.encode()) if isinstance(counts, str) else counts
        decode_runs(counts, SIZE, rows_first=False)


# --- COCO


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not valid JSON"),
        ({"shapes": []}, "is not a COCO file"),
        ({"images": [], "annotations": [{"segments_info": []}], "categories": []}, "is a panoptic COCO file"),
        ({"images": [], "annotations": [{"caption": "a dog"}]}, "holds captions"),
        ({"images": [], "annotations": []}, "has no list 'categories'"),
        (coco_file(["a", "a"], [], images=[{"id": 1, "file_name": "a.png"}] * 2), "an id that another image has"),
        (coco_file(["a"], [3]), "annotation number 1: belongs to the image None"),  # type: ignore[list-item]
    ],
)
def test_unsuitable_coco_files_are_named(tmp_path, content, problem):
    save(tmp_path / "a.png", noise(*SIZE))
    found = read(read_coco, write(tmp_path / "x.json", content))
    assert any(problem in error for error in found.errors)


def test_the_split_of_a_coco_file_is_told_by_its_name_or_folder(tmp_path):
    for folder in ("train", "valid"):
        save(tmp_path / folder / "a.png", noise(*SIZE))
        write(tmp_path / folder / "_annotations.coco.json", coco_file(["a"], []))
    found = read(read_coco, tmp_path)
    assert [(image.split, image.image.parent.name) for image in found.images] == [("train", "train"), ("val", "valid")]  # type: ignore[union-attr]


# --- CVAT


def cvat(tmp_path: Path, body: str) -> Annotations:
    save(tmp_path / "a.png", noise(*SIZE))
    image = f'<image id="0" name="a.png" width="32" height="24">{body}</image>'
    return read(read_cvat, write(tmp_path / "annotations.xml", f"<annotations>{image}</annotations>"))


def test_shapes_of_cvat_are_drawn(tmp_path):
    ellipse = drawn(cvat(tmp_path, '<ellipse label="dent" cx="15" cy="12" rx="10" ry="6"/>'))
    y, x = np.mgrid[:24, :32] + 0.5
    distance = np.hypot((x - 15) / 10, (y - 12) / 6)
    assert (ellipse.label[distance < 1] == 1).all() and not ellipse.label[distance > 1.25].any()
    box = '<box label="dent" xtl="10" ytl="4" xbr="20" ybr="8" rotation="90"/>'
    turned = drawn(cvat(tmp_path, box), boxes="fill").label
    assert (turned[1:11, 13:17] == 1).all() and not turned[:, :12].any() and not turned[13:].any()
    line = drawn(cvat(tmp_path, '<polyline label="dent" points="2,5;20,5"/><points label="scratch" points="25,15"/>'), line_px=1)
    assert (line.label[5, 2:21] == 1).all() and line.label[15, 25] == 2 and np.count_nonzero(line.label) == 20


def test_higher_shapes_of_cvat_cover_lower_ones(tmp_path):
    points = ";".join(f"{x},{y}" for x, y in outline(DENT))
    body = f'<polygon label="scratch" z_order="2" points="{points}"/><polygon label="dent" z_order="-1" points="{points}"/>'
    assert (drawn(cvat(tmp_path, body)).label[covered(DENT)] == 2).all()


def test_what_cvat_files_hold_besides_is_counted_or_an_error(tmp_path):
    found = cvat(tmp_path, '<tag label="blurry"/><cuboid label="dent" xtl1="1"/><polygon label="dent" points="1,2;x,4"/>')
    result = drawn(found)
    assert found.without_pixels == 1 and not result.is_usable
    assert "cuboid 1 of a.png (label 'dent'): shapes of the type cuboid are not supported" in result.errors[0]
    assert "polygon 2 of a.png (label 'dent'): has invalid coordinates" in result.errors[1]
    for text, problem in (
        ("<annotations><track id='0'/></annotations>", "Export the task as 'CVAT for images'"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><annotations/>", "declares XML entities"),
        ("<annotation/>", "is not a file of CVAT"),
        ("<annotations>", "is not valid XML"),
    ):
        assert problem in read(read_cvat, write(tmp_path / "annotations.xml", text)).errors[0]


# --- Supervisely


def supervisely(tmp_path: Path, *objects: dict, tags: tuple[str, ...] = ()) -> Annotations:
    save(tmp_path / "ds/img/a.png", noise(*SIZE))
    write(tmp_path / "meta.json", {"classes": [{"title": "dent"}], "tags": []})
    size = {"height": SIZE[0], "width": SIZE[1]}
    write(tmp_path / "ds/ann/a.png.json", {"size": size, "tags": [{"name": tag} for tag in tags], "objects": list(objects)})
    return read(read_supervisely, tmp_path)


def test_objects_of_supervisely_are_drawn(tmp_path):
    hole = (6, 6, 15, 12)
    points = {"exterior": outline(DENT), "interior": [outline(hole)]}
    found = supervisely(tmp_path, {"id": 7, "classTitle": "dent", "geometryType": "polygon", "points": points}, tags=("train",))
    np.testing.assert_array_equal(drawn(found).label == 1, covered(DENT) & ~covered(hole))
    assert found.images[0].split == "train"
    box = {"id": 8, "classTitle": "dent", "geometryType": "rectangle", "points": {"exterior": [[3, 3], [20, 15]], "interior": []}}
    np.testing.assert_array_equal(drawn(supervisely(tmp_path, box), boxes="fill").label == 1, covered(DENT))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"geometryType": "bitmap", "bitmap": {"data": "eJx", "origin": [0, 0]}}, "a bitmap that cannot be read"),
        ({"geometryType": "bitmap", "bitmap": {"data": bitmap(np.ones(SIZE, bool)), "origin": [5, 0]}}, "mask of 32x24 pixels"),
        ({"geometryType": "graph"}, "objects of the type 'graph' are not supported"),
        ({"geometryType": "polygon", "points": {"exterior": [[1, 2], [3, 4]]}}, "polygon with 2 points"),
    ],
)
def test_broken_objects_of_supervisely_are_named(tmp_path, changed, problem):
    result = drawn(supervisely(tmp_path, {"id": 7, "classTitle": "dent"} | changed))
    assert "a.png.json, object 7 (label 'dent')" in result.errors[0] and problem in result.errors[0]


# --- masks and YOLO


def test_an_unknown_color_is_named(tmp_path):
    annotation_files.cvat_masks(tmp_path)
    write(tmp_path / "labelmap.txt", "background:0,0,0::\ndent:250,50,50::\n")
    found = read(read_voc, tmp_path)
    with pytest.raises(DataError, match=r"SegmentationClass/a.png: .*\[50, 50, 250\]"):
        drawn(found)
    write(tmp_path / "labelmap.txt", "background:0,0,0::\ndent:250,50::\n")
    with pytest.raises(DataError, match="labelmap.txt: 'dent:250,50::', expected name:red,green,blue::"):
        read(read_voc, tmp_path)
    with pytest.raises(DataError, match="expected one folder with SegmentationClass, found none"):
        read(read_voc, tmp_path / "ImageSets")


def test_ids_that_a_table_has_turned_into_floats_are_read(tmp_path):
    annotation_files.coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"

    def labels(found):
        return {image.name: [region.label for region in image.regions] for image in found.images}

    content, before = json.loads(path.read_text()), labels(read(read_coco, path))
    for entry in content["images"] + content["categories"]:
        entry["id"] = float(entry["id"])
    for entry in content["annotations"]:
        entry |= {"image_id": float(entry["image_id"]), "category_id": float(entry["category_id"])}
    path.write_text(json.dumps(content))
    found = read(read_coco, path)
    assert not found.errors and labels(found) == before
    content["categories"][0]["id"], content["images"][0]["id"], content["annotations"][0]["category_id"] = [], {}, 0.5
    path.write_text(json.dumps(content))
    assert any("without an id and a file_name" in error for error in read(read_coco, path).errors)


def test_broken_lines_of_yolo_are_named(tmp_path):
    annotation_files.yolo(tmp_path)
    lines = [
        "5 0.1 0.1 0.2 0.2 0.3 0.3",
        "1 0.1 0.1 0.2",
        "dent 0.5",
        "1 0.1 0.1 0.5 0.1 7 0.3",
        "1 nan 0.1 0.5 0.1 0.5 0.3",
        "nan 0.5 0.5 0.2 0.2",
        "inf 0.5 0.5 0.2 0.2",
    ]
    write(tmp_path / "labels/train/a.txt", "\n".join(lines))
    errors = drawn(read(read_yolo, tmp_path)).errors
    assert [f"a.txt, line {number} " in error for number, error in enumerate(errors, 1)] == [True] * 7
    problems = (
        "has the class 5, but 'names' ends at 1",
        "3 coordinates",
        "expected a class number",
        "pixels outside",
        "[x, y] numbers",
        "has the class nan",
        "has the class inf",
    )
    assert all(problem in error for problem, error in zip(problems, errors, strict=True))


def test_yolo_lists_name_images(tmp_path):
    annotation_files.yolo(tmp_path)
    write(tmp_path / "train.txt", "./images/train/a.png\n./images/train/gone.png\n")
    write(tmp_path / "data.yaml", "train: train.txt\nval: absent\nnames: [scratch, dent]\n")
    found = read(read_yolo, tmp_path)
    assert [image.name for image in found.images] == ["a.png"]
    assert "train.txt, line 2: there is no image" in found.errors[0] and "absent does not exist" in found.errors[1]
    np.testing.assert_array_equal(drawn(found).label, expected())


# --- images


def test_images_are_found_by_paths_of_other_machines(tmp_path):
    for name in ("train/cam1/a.png", "train/cam2/a.png", "val/cam1/a.png", "b.png"):
        save(tmp_path / name, noise(*SIZE))
    finder = ImageFinder([tmp_path], "Add it.")

    def find(name: str, split: str | None = None, near: str = "") -> str:
        return finder.find(name, tmp_path / near, split).relative_to(tmp_path).as_posix()

    assert find("C:\\data\\b.png") == find("/home/me/b.png") == find("../../b.png") == "b.png"
    assert find("cam2\\a.png") == "train/cam2/a.png"
    assert find("cam1/a.png", "val") == "val/cam1/a.png"
    assert find("a.png", None, "val/cam1") == "val/cam1/a.png"
    with pytest.raises(DataError, match="2 images are called 'cam1/a.png'"):
        find("cam1/a.png")
    with pytest.raises(DataError, match="there is no image 'c.png' below .* Add it."):
        find("c.png")


# --- Datumaro


def test_nothing_that_datumaro_passes_over_is_lost(tmp_path):
    pytest.importorskip("datumaro")
    annotation_files.datumaro(tmp_path)
    path = tmp_path / "annotations/train.json"
    content = json.loads(path.read_text())
    own = content["items"][0]["annotations"]
    common = {"attributes": {}, "group": 0, "z_order": 0}
    own.append({"id": 3, "type": "polygon", "label_id": 1, "points": [1, 2, 3]} | common)
    own.append({"id": 4, "type": "nonsense", "label_id": 1} | common)
    own.append({"id": 5, "type": "caption", "caption": "a dent"} | common)
    own.append({"id": 6, "type": "bbox", "label_id": 9, "bbox": [1, 2, 3, 4]} | common)
    write(path, content)
    found = read(read_datumaro, tmp_path, plugin="datumaro")
    errors = [*found.errors, *(error for number in range(len(found.images)) for error in drawn(found, number, boxes="fill").errors)]
    assert [any(f"annotation {number}" in error for error in errors) for number in (3, 4, 6)] == [True] * 3
    read_in = sum(len(image.regions) for image in found.images) + found.lost + found.without_pixels
    assert read_in == 3 * 2 + 4


@pytest.mark.parametrize("form", ["coco_instances", "cvat", "voc_segmentation"])
def test_files_that_datumaro_writes_are_read_alike(tmp_path, form):
    pytest.importorskip("datumaro")
    from datumaro.components.dataset import Dataset  # pyright: ignore[reportMissingImports]

    annotation_files.datumaro(tmp_path / "mine")
    dataset = Dataset.import_from(str(tmp_path / "mine"), "datumaro")
    dataset.export(str(tmp_path / "exported"), form, save_media=True)
    reader = {"coco_instances": read_coco, "cvat": read_cvat, "voc_segmentation": read_voc}[form]
    found = read(reader, tmp_path / "exported")
    assert not found.errors and len(found.images) == 3
    for number, image in enumerate(found.images):
        assert isinstance(image, AnnotatedImage) and isinstance(image.image, Path)
        label = np.uint8(2) * covered(SCRATCH) if form == "voc_segmentation" else expected()  # Datumaro's VOC leaves out polygons
        np.testing.assert_array_equal(drawn(found, number).label, label)


def test_words_in_names_of_files_are_no_splits(tmp_path):
    annotation_files.cvat(tmp_path)
    text = (tmp_path / "annotations.xml").read_text().replace(' subset="train"', "").replace(' subset="val"', "")
    (tmp_path / "images/b.png").rename(tmp_path / "images/val_de_loire.png")
    (tmp_path / "annotations.xml").write_text(text.replace('name="b.png"', 'name="val_de_loire.png"'))
    assert {image.split for image in read(read_cvat, tmp_path).images} == {None}


def test_boxes_cover_the_pixels_inside_their_edges(tmp_path):
    annotation_files.coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [annotation_files.coco_annotation(1, content["images"][0]["id"], 7, [], bbox=[5, 6, 4, 3])]
    path.write_text(json.dumps(content))
    label = drawn(read(read_coco, path), boxes="fill").label
    assert (label[6:9, 5:9] == 1).all() and np.count_nonzero(label) == 12
    for rotation in ("", ' rotation="0"'):
        box = f'<box label="dent" xtl="5" ytl="6" xbr="9" ybr="9"{rotation}/>'
        assert (drawn(cvat(tmp_path / "cvat", box), boxes="fill").label == label).all()


def test_images_that_are_listed_twice_and_whole_sizes_are_read(tmp_path):
    annotation_files.coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    first = content["images"][0]
    first |= {"height": float(first["height"]), "width": float(first["width"])}
    content["images"].insert(0, {"id": first["id"]})
    path.write_text(json.dumps(content))
    found = read(read_coco, path)
    assert found.images[0].size == SIZE and len(found.errors) == 1


def test_splits_that_are_neither_folders_nor_lists_are_rejected(tmp_path):
    annotation_files.yolo(tmp_path)
    write(tmp_path / "data.yaml", "train: 5\nnames: [a]\n")
    with pytest.raises(DataError, match="'train' is 5, expected a folder, a list file or a list of them"):
        read(read_yolo, tmp_path)
