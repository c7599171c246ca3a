"""Public data sets: classes, values, files, and what is missing."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from dataset_actions import run_action
from image_files import noise, save, settings_from

from segzoo.data.checks.check import check_splits
from segzoo.registry import DATA, ConfigError
from segzoo.types import IGNORE, DataError, DatasetInfo

# image, label, list, and the raw values of the label -> train ids, by data set
LAYOUTS = {
    "ade20k": ("images/{}/ADE_{}.jpg", "annotations/{}/ADE_{}.png", None, {0: IGNORE, 1: 0, 13: 12, 150: 149}),
    "coco_stuff": ("images/{}/{}.jpg", "annotations/{}/{}.png", None, {0: 0, 89: 79, 91: 80, 181: 170, 255: IGNORE}),
    "pascal_context": ("JPEGImages/{}{}.jpg", "SegmentationClassContext/{}{}.png", "ImageSets/SegmentationContext", {0: 0, 1: 1, 59: 59}),
    "pascal_context_59": ("JPEGImages/{}{}.jpg", "SegmentationClassContext/{}{}.png", "ImageSets/SegmentationContext", {0: IGNORE, 1: 0, 59: 58}),
    "voc": ("JPEGImages/{}{}.jpg", "SegmentationClass/{}{}.png", "ImageSets/Segmentation", {0: 0, 20: 20, 255: IGNORE}),
    "voc_aug": ("JPEGImages/{}{}.jpg", "SegmentationClassAug/{}{}.png", "ImageSets/Segmentation", {0: 0, 20: 20, 255: IGNORE}),
}  # fmt: skip


def info_of(name: str) -> DatasetInfo:
    kind, options = settings_from(name, root="x")
    return DATA.build(kind, "val", **options).info


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_are_found_and_values_are_converted(tmp_path, name):
    images, labels, lists, values = LAYOUTS[name]
    kind, options = settings_from(name, root=str(tmp_path))
    raw = np.resize(np.array(list(values), np.uint8), (20, 24))
    for number, split in enumerate(options["splits"][one] for one in ("train", "val")):
        save(tmp_path / images.format(split, "00000001"), noise(20, 24, number))
        save(tmp_path / labels.format(split, "00000001"), raw)
        if lists:
            (tmp_path / lists).mkdir(parents=True, exist_ok=True)
            (tmp_path / lists / f"{split}.txt").write_text(f"{split}00000001\n")
    splits = {split: DATA.build(kind, split, **options) for split in ("train", "val")}
    check_splits(splits)
    expected = np.resize(np.array(list(values.values()), np.uint8), (20, 24))
    for dataset in splits.values():
        assert len(dataset) == 1
        np.testing.assert_array_equal(dataset[0].label, expected)


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("ade20k", 150, {0: "wall", 1: "building", 12: "person", 149: "flag"}),
        ("coco_stuff", 171, {0: "person", 79: "toothbrush", 80: "banner", 170: "wood"}),
        ("pascal_context", 60, {0: "background", 1: "aeroplane", 59: "wood"}),
        ("pascal_context_59", 59, {0: "aeroplane", 58: "wood"}),
        ("voc", 21, {0: "background", 15: "person", 20: "tvmonitor"}),
    ],
)
def test_classes_have_the_order_of_the_benchmarks(name, count, some):
    info = info_of(name)
    assert info.num_classes == count and {index: info.classes[index] for index in some} == some
    assert {train_id for train_id in info.label_map.values() if train_id != IGNORE} in (set(), set(range(count)))


MMSEG = {
    "ade20k": ("ade", "ADE20KDataset"),
    "coco_stuff": ("coco_stuff", "COCOStuffDataset"),
    "pascal_context": ("pascal_context", "PascalContextDataset"),
    "pascal_context_59": ("pascal_context", "PascalContextDataset59"),
    "voc": ("voc", "PascalVOCDataset"),
    "cityscapes": ("cityscapes", "CityscapesDataset"),
}


@pytest.mark.skipif(importlib.util.find_spec("mmseg") is None, reason="mmsegmentation is not installed")
@pytest.mark.parametrize("name", MMSEG)
def test_classes_and_colors_equal_those_of_mmsegmentation(name):
    module, dataset = MMSEG[name]
    spec = importlib.util.find_spec("mmseg")
    assert spec and spec.submodule_search_locations
    tree = ast.parse(Path(spec.submodule_search_locations[0], f"datasets/{module}.py").read_text())  # importing it would need mmcv
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == dataset)
    metainfo = next(node.value for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "METAINFO")
    assert isinstance(metainfo, ast.Call)
    expected = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in metainfo.keywords}
    info = info_of(name)
    assert info.classes == tuple(label.strip() for label in expected["classes"])
    if name != "coco_stuff":  # it defines no colors, and those of mmsegmentation repeat
        assert info.palette == tuple(map(tuple, expected["palette"]))


CAMVID = {  # SegNet's class -> names and colors in label_colors.txt of the original release
    "Sky": ["128 128 128 Sky"],
    "Building": ["128 0 0 Building", "192 0 128 Archway", "0 128 64 Bridge", "64 0 64 Tunnel", "64 192 0 Wall"],
    "Pole": ["192 192 128 Column_Pole", "0 0 64 TrafficCone"],
    "Road": ["128 64 128 Road", "128 0 192 LaneMkgsDriv", "192 0 64 LaneMkgsNonDriv"],
    "Pavement": ["0 0 192 Sidewalk", "64 192 128 ParkingBlock", "128 128 192 RoadShoulder"],
    "Tree": ["128 128 0 Tree", "192 192 0 VegetationMisc"],
    "SignSymbol": ["192 128 128 SignSymbol", "128 128 64 Misc_Text", "0 64 64 TrafficLight"],
    "Fence": ["64 64 128 Fence"],
    "Car": ["64 0 128 Car", "64 128 192 SUVPickupTruck", "192 128 192 Truck_Bus", "192 64 128 Train", "128 64 64 OtherMoving"],
    "Pedestrian": ["64 64 0 Pedestrian", "192 128 64 Child", "64 0 192 CartLuggagePram", "64 128 64 Animal"],
    "Bicyclist": ["0 128 192 Bicyclist", "192 0 192 MotorcycleScooter"],
    "ignore": ["0 0 0 Void"],
}


def test_the_32_colors_of_camvid_become_its_11_classes(tmp_path):
    kind, options = settings_from("camvid32", root=str(tmp_path))
    colors = [(name, [int(value) for value in line.split()[:3]]) for name, lines in CAMVID.items() for line in lines]
    for number, stem in enumerate(("0001TP_006690", "0016E5_07959")):
        save(tmp_path / f"701_StillsRaw_full/{stem}.png", noise(4, 8, number))
        save(tmp_path / f"LabeledApproved_full/{stem}_L.png", np.array([color for _, color in colors], np.uint8).reshape(4, 8, 3))
        (tmp_path / ("train.txt", "val.txt")[number]).write_text(stem)
    splits = {split: DATA.build(kind, split, **options) for split in ("train", "val")}
    check_splits(splits)
    classes = info_of("camvid").classes
    assert splits["val"].info.classes == classes and len(colors) == 32
    expected = [IGNORE if name == "ignore" else classes.index(name) for name, _ in colors]
    assert splits["val"][0].label.ravel().tolist() == expected


def test_extra_colors_are_checked():
    options = {"root": "x", "classes": ("a", "b"), "palette": ((0, 0, 0), (1, 1, 1))}
    with pytest.raises(ConfigError, match="extra_colors: the class 'c' is not known"):
        DATA.build("folder", "all", **options, masks="color", extra_colors={"c": [[2, 2, 2]]})
    with pytest.raises(ConfigError, match=r"\[1, 1, 1\] more than once"):
        DATA.build("folder", "all", **options, masks="color", extra_colors={"a": [[1, 1, 1]]})
    with pytest.raises(ConfigError, match="extra_colors is for data.masks=color"):
        DATA.build("folder", "all", **options, extra_colors={"a": [[2, 2, 2]]})


@pytest.mark.parametrize("name", ["ade20k", "coco_stuff", "pascal_context", "voc", "voc_aug", "camvid", "camvid32", "cityscapes"])
def test_verify_says_what_is_missing_and_where_to_get_it(tmp_path, name):
    for present in ("", "images/training", "leftImg8bit/train", "JPEGImages"):
        (tmp_path / "set" / present).mkdir(parents=True, exist_ok=True)
    try:
        message = "\n".join(run_action(tmp_path / "out", f"data={name}", f"data.root={tmp_path / 'set'}").errors)
    except DataError as error:  # no split exists
        message = str(error)
    assert re.search(r"is not a folder|there is no such list", message)
    assert re.search(r"The data set is available from https?://", message)


def test_a_missing_split_is_noted(tmp_path):
    save(tmp_path / "images/training/a.jpg", noise(20, 24))
    save(tmp_path / "annotations/training/a.png", np.resize(np.arange(151, dtype=np.uint8), (20, 24)))
    report = run_action(tmp_path / "out", "data=ade20k", f"data.root={tmp_path}")
    assert not report.errors and list(report.result["splits"]) == ["train"]
    assert "note: " in report.text and "annotations/validation is not a folder" in report.result["missing_splits"][0]


def make_city(root: Path, split: str, annotation: str, kind: str = "labelIds", value: int = 7) -> None:
    save(root / f"leftImg8bit/{split}/ulm/ulm_0_{split}_leftImg8bit.png", noise(8, 16))
    save(root / f"{annotation}/{split}/ulm/ulm_0_{split}_{annotation}_{kind}.png", np.full((8, 16), value, np.uint8))


def test_coarse_annotations_of_cityscapes(tmp_path):
    name, options = settings_from("cityscapes", root=str(tmp_path))
    make_city(tmp_path, "train", "gtFine")
    make_city(tmp_path, "val", "gtFine")
    for train_on in ("coarse", "both"):
        with pytest.raises(DataError, match=r"train_extra is not a folder.*available from https://www\.cityscapes"):
            len(DATA.build(name, "train", **options | {"train_on": train_on}))
    make_city(tmp_path, "train_extra", "gtCoarse", value=8)
    stems = {
        train_on: [pair.name for pair in DATA.build(name, "train", **options | {"train_on": train_on}).scan()]
        for train_on in ("fine", "coarse", "both")
    }
    assert stems["both"] == [*stems["fine"], *stems["coarse"]] and len(stems["both"]) == 2
    both = DATA.build(name, "train", **options | {"train_on": "both"})
    assert [int(both[index].label[0, 0]) for index in range(2)] == [0, 1]
    make_city(tmp_path, "train_extra", "gtCoarse", "labelTrainIds", value=18)  # both kinds of labels in one folder
    assert int(both[0].label[0, 0]) == 0
    both = DATA.build(name, "train", **options | {"train_on": "both"})
    assert [int(both[index].label[0, 0]) for index in range(2)] == [0, 18]
    assert len(DATA.build(name, "val", **options | {"train_on": "both"})) == 1
    (tmp_path / "gtCoarse/train_extra/ulm/ulm_0_train_extra_gtCoarse_labelTrainIds.png").unlink()
    (tmp_path / "gtCoarse/train_extra/ulm/ulm_0_train_extra_gtCoarse_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"Unpack leftImg8bit_trainextra\.zip and gtCoarse\.zip"):
        len(DATA.build(name, "train", **options | {"train_on": "coarse"}))
