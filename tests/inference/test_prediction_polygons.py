"""Predictions become drafts of labels."""

from __future__ import annotations

import json
import os

import numpy as np
from PIL import Image
from predictions import predict_source
from test_image_table import PARTS, Bright, save_spot
from test_video_source import write_video


def test_regions_become_labelme_and_coco_files(tmp_path):
    for name, area in (("cam/a", 45), ("b", 0)):
        save_spot(tmp_path / f"in/{name}.png", area)
    for polygons in ("labelme", "coco"):
        done = predict_source(Bright(), PARTS, tmp_path / polygons, tmp_path / "in", polygons=polygons, overlays="none")
    record = json.loads((tmp_path / "labelme/polygons/cam/a.json").read_text())
    assert record["imagePath"] == "../../../in/cam/a.png" and record["imageData"] is None and record["imageHeight"] == 10
    assert [shape["label"] for shape in record["shapes"]] == ["scratch"]
    assert json.loads((tmp_path / "labelme/polygons/b.json").read_text())["shapes"] == []
    coco = json.loads((tmp_path / "coco/polygons.json").read_text())
    assert done["polygons"] == str(tmp_path / "coco/polygons.json")
    assert [image["file_name"] for image in coco["images"]] == ["../in/b.png", "../in/cam/a.png"]
    (annotation,) = coco["annotations"]
    assert (annotation["image_id"], annotation["area"], annotation["bbox"]) == (2, 45, [0, 0, 20, 3])
    predict_source(Bright(), PARTS, tmp_path / "labelme", tmp_path / "in", resumed=True, polygons="labelme", overlays="none")


def test_images_may_have_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "in").mkdir()
    save_spot(tmp_path / "spot.png", 45)
    os.rename(tmp_path / "spot.png", tmp_path / "in" / name)
    for polygons in ("labelme", "coco"):
        predict_source(Bright(), PARTS, tmp_path / polygons, tmp_path / "in", polygons=polygons, overlays="none")
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "labelme/polygons").iterdir())
    coco = json.loads((tmp_path / "coco/polygons.json").read_text())
    assert record["imagePath"] == f"../../in/{name}" and [image["file_name"] for image in coco["images"]] == [f"../in/{name}"]
    assert (tmp_path / "labelme/polygons" / record["imagePath"]).is_file()


def test_frames_are_embedded(tmp_path):
    clip = write_video(tmp_path / "clip.avi", 2)
    predict_source(Bright(), PARTS, tmp_path / "out", clip, polygons="labelme", overlays="none")
    record = json.loads((tmp_path / "out/polygons/clip/000001.json").read_text())
    assert record["imagePath"] == "000001.png" and len(record["imageData"]) > 50
    with Image.open(tmp_path / "out/labels/clip/000001.png") as label:
        assert np.array(label).shape == (record["imageHeight"], record["imageWidth"])
