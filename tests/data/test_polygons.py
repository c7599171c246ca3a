"""Polygons of label maps, written to LabelMe and COCO files and read back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.ndimage import binary_dilation

from segzoo.data.annotations.class_table import make_class_table
from segzoo.data.annotations.drafts import DraftImage, coco_record, labelme_record, relative_name
from segzoo.data.annotations.formats.coco import read_coco
from segzoo.data.annotations.formats.labelme import embedded_image
from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.polygons import region_polygons
from segzoo.data.annotations.rasterize import DrawSettings, draw_image
from segzoo.data.datasets.labelme import LabelMeShapes
from segzoo.inference.prediction.result import Prediction
from segzoo.types import DatasetInfo
from segzoo.visualization.drawing import outlines

INFO = DatasetInfo("parts", ("background", "bolt", "nut"), ((0, 0, 0), (200, 0, 0), (0, 0, 250)))


def labels_of(polygons, size, folder):
    """The label map that data=labelme reads from a file of these polygons."""
    path = folder / "x.json"
    path.write_text(json.dumps(labelme_record(DraftImage("x.png", size, polygons))))
    return LabelMeShapes(INFO.classes, {}, 0.0)(path, size)


@settings(max_examples=80, deadline=None)
@given(label=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0, 1, 1, 2])))
def test_exact_polygons_become_the_same_labels(tmp_path_factory, label):
    polygons = region_polygons(label, INFO, tolerance=0)
    assert (labels_of(polygons, label.shape, tmp_path_factory.getbasetemp()) == label).all()
    assert all(len(polygon.points) >= 3 for polygon in polygons)


def test_a_region_of_a_great_many_holes_is_outlined(tmp_path):
    label = np.ones((161, 161), np.uint8)
    label[1:-1:2, 1:-1:2] = 0
    (polygon,) = region_polygons(label, INFO, tolerance=0)
    assert (labels_of([polygon], label.shape, tmp_path) == label).all()


def blobs_of(seed, height=90, width=120):
    """Smooth regions with holes and islands, and specks."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(height // 10, width // 10)).astype(np.float32)
    smooth = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    label = np.digitize(smooth, [0.0, 0.6]).astype(np.uint8)
    label[rng.random(label.shape) < 0.002] = 1
    return label


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5])
def test_simplified_polygons_differ_only_at_outlines(tmp_path, tolerance):
    corners = 0
    for seed in range(4):
        label = blobs_of(seed)
        polygons = region_polygons(label, INFO, tolerance)
        corners += sum(len(polygon.points) for polygon in polygons)
        differs = labels_of(polygons, label.shape, tmp_path) != label
        near = outlines(np.pad(label, 1, constant_values=9))[1:-1, 1:-1]  # within two pixels, also of the border
        assert not differs[~np.asarray(binary_dilation(near, iterations=int(tolerance)), bool)].any()
        assert differs.mean() <= 0.05 * tolerance
    exact = sum(len(polygon.points) for seed in range(4) for polygon in region_polygons(blobs_of(seed), INFO, 0))
    assert corners == exact if tolerance == 0 else corners < 0.6 * exact


def test_regions_have_their_box_and_area_and_the_largest_comes_first():
    label = np.zeros((20, 30), np.uint8)
    label[2:10, 3:13] = 2
    label[4:6, 5:8] = 0
    label[15, 20] = 1
    nut, bolt = region_polygons(label, INFO)
    assert (nut.class_name, nut.class_id, nut.box, nut.area) == ("nut", 2, (3, 2, 10, 8), 74)
    assert (bolt.class_name, bolt.box, bolt.area) == ("bolt", (20, 15, 1, 1), 1) and (np.floor(bolt.points) == (20, 15)).all()
    assert region_polygons(label, INFO, min_area=2)[0].class_name == "nut" and len(region_polygons(label, INFO, min_area=2)) == 1
    assert nut.points.min(0).tolist() == [3.5, 2.5] and nut.points.max(0).tolist() == [12.5, 9.5], "centers of pixels"
    streets = DatasetInfo("streets", ("sky", "road"), ((0, 0, 0), (9, 9, 9)))
    assert [polygon.area for polygon in region_polygons(label[:10] // 2, streets)] == [300 - 74 - 6, 74, 6], "no background"


def test_coco_files_of_several_images_are_read_back(tmp_path):
    labels = [blobs_of(5), blobs_of(6, 60, 80)]
    images = []
    for number, label in enumerate(labels):
        Image.fromarray(np.zeros((*label.shape, 3), np.uint8)).save(tmp_path / f"{number}.png")
        images.append(DraftImage(f"{number}.png", label.shape, region_polygons(label, INFO, 0)))
    record = coco_record(images, INFO)
    assert [category["name"] for category in record["categories"]] == ["bolt", "nut"]
    assert record["annotations"][0]["area"] == images[0].polygons[0].area
    assert len({annotation["id"] for annotation in record["annotations"]}) == len(record["annotations"])
    (tmp_path / "train.json").write_text(json.dumps(record))
    annotations = read_coco(tmp_path / "train.json", ImageFinder([tmp_path], "Add it."))
    table = make_class_table(annotations, INFO.classes, {})
    for image, label in zip(annotations.images, labels, strict=True):
        drawn = draw_image(image, label.shape, 1, DrawSettings(table))
        assert drawn.errors == [] and (drawn.label == label).all()


def test_a_prediction_is_saved_as_a_draft(tmp_path):
    label, image = blobs_of(7), np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    from_file = Prediction(image, label, INFO, tmp_path / "images" / "a.png")
    record = json.loads(from_file.save(tmp_path / "drafts" / "a.json", "labelme", tolerance=0).read_text())
    assert record["imagePath"] == "../images/a.png" == relative_name(tmp_path / "images" / "a.png", tmp_path / "drafts" / "a.json")
    assert record["imageData"] is None and (record["imageHeight"], record["imageWidth"]) == (90, 120)
    assert (LabelMeShapes(INFO.classes, {}, 0.0)(tmp_path / "drafts" / "a.json", (90, 120)) == label).all()
    embedded = Prediction(image, label, INFO).save(tmp_path / "b.json", "labelme")
    (tmp_path / "b.png").write_bytes(embedded_image(embedded))
    assert (np.array(Image.open(tmp_path / "b.png")) == image).all()
    coco = json.loads(from_file.save(tmp_path / "c.json", "coco").read_text())
    assert coco["images"] == [{"id": 1, "file_name": "images/a.png", "height": 90, "width": 120}]
    assert len(coco["annotations"]) == len(from_file.polygons()) == len(from_file.regions)
