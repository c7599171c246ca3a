"""Descriptions of folders in messages about missing files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from image_files import build_folder, make_pairs, noise, save
from omegaconf import OmegaConf

from segzoo.data.checks.layouts import describe_tree
from segzoo.registry import DATA
from segzoo.types import DataError

LAYOUTS = {  # images, labels
    "images and masks": ("images/train/{stem}.png", "masks/train/{stem}.png"),
    "split first": ("train/images/{stem}.jpg", "train/labels/{stem}.png"),
    "suffix": ("data/{stem}.png", "data/{stem}_mask.png"),
    "suffix in a folder": ("img/{stem}.png", "gt/{stem}_label.tif"),
    "one folder": ("all/{stem}.jpg", "all/{stem}.png"),
    "root": ("{stem}.jpg", "{stem}.png"),
    "annot": ("training/{stem}.png", "trainingannot/{stem}.png"),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def suggested(message: str) -> dict:
    """Settings that a message suggests, as a shell and Hydra read them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = shlex.split(message.partition("These settings may fit: ")[2].splitlines()[0])
    overrides = OverridesParser.create().parse_overrides([word for word in words if word.startswith("data")])
    return {override.key_or_group.removeprefix("data."): override.value() for override in overrides}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_settings_that_would_fit_are_suggested_and_work(tmp_path, layout):
    images, labels = LAYOUTS[layout]
    make_pairs(tmp_path, images, labels, [f"im{i}" for i in range(12)])
    for pattern in (images, labels):
        if "train" in pattern:
            val_images, val_labels = (p.replace("training", "validation").replace("train", "val") for p in (images, labels))
            make_pairs(tmp_path, val_images, val_labels, ["v1", "v2"])
    with pytest.raises(DataError) as caught:
        len(build_folder(tmp_path, images="absent/{split}/{stem}.*"))
    settings = suggested(str(caught.value))
    name = settings.pop("data")
    built = {split: DATA.build(name, split, root=str(tmp_path), classes=("x", "y", "z"), **settings) for split in ("train", "val")}
    assert len(built["train"]) + len(built["val"]) in (12, 14) and all(len(data) for data in built.values())
    assert built["val"][0].label.max() <= 2
    assert OmegaConf.create(settings)  # plain values


def test_what_lies_there_is_listed(tmp_path):
    make_pairs(tmp_path, "pics/{stem}.jpg", "notes/{stem}.txt", ["a", "b", "c"])
    with pytest.raises(
        DataError, match=r"labels/train is not a folder.*In .* there are notes/ \(3 .txt: a.txt, b.txt, ...\); pics/ \(3 .jpg"
    ):
        len(build_folder(tmp_path))
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "images/train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"split 'train' .* is empty: no file matches images/train.* pics/ \(3 .jpg"):
        len(build_folder(tmp_path))
    with pytest.raises(
        DataError,
        match=r"data root .*/pisc is not a folder. Did you mean 'pics'\? .* holds the folders images, labels, notes, pics",
    ):
        len(build_folder(tmp_path / "pisc"))
    assert describe_tree(tmp_path / "labels") == ""


FORMATS = {
    "COCO": (
        {"annotations/instances_train.json": json.dumps({"info": {}, "licenses": [], "images": [], "annotations": []})},
        r"is a COCO file. Convert it: .*action.format=coco action.source=.*/annotations/instances_train.json",
    ),
    "Roboflow": ({"train/_annotations.coco.json": '{"images": [{"id": 1}], "annotations": []}'}, "is a COCO file"),
    "YOLO": ({"labels/train/a.txt": "0 0.1 0.2 0.3 0.4 0.5 0.6\n1 0 0 1 1 0 1\n", "data.yaml": "names: [a]"}, "is a YOLO file"),
    "CVAT": ({"annotations.xml": '<?xml version="1.0"?>\n<annotations>\n<version>1.1</version>'}, "is an XML export of CVAT"),
    "Supervisely": (
        {"meta.json": '{"classes": [], "tags": []}', "ds0/ann/a.png.json": '{"objects": []}'},
        "is a Supervisely project",
    ),
    "VOC": ({"JPEGImages/a.jpg": "", "SegmentationClass/a.png": ""}, "use data=voc"),
    "VOC boxes": ({"JPEGImages/a.jpg": "", "Annotations/a.xml": "<annotation>"}, "with boxes only"),
    "label map": (
        {"labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndeep crack:250,50,83::\n"},
        r"data.masks=color 'data.classes=\[background,\"deep crack\"\]' 'data.palette=\[\[0,0,0\],\[250,50,83\]\]'",
    ),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_of_annotation_tools_are_named(tmp_path, kind):
    files, expected = FORMATS[kind]
    for name, text in files.items():
        write(tmp_path / name, text)
    save(tmp_path / "pics/a.png", noise())
    with pytest.raises(DataError, match=rf"(?s)is not a folder.*{expected}"):
        len(build_folder(tmp_path))


def test_labelme_files_are_suggested_as_such(tmp_path):
    for stem in "abcd":
        save(tmp_path / f"pics/{stem}.jpg", noise())
        write(tmp_path / f"pics/{stem}.json", json.dumps({"version": "5.5.0", "shapes": [], "imagePath": f"{stem}.jpg"}))
    assert "COCO" not in describe_tree(tmp_path)
    settings = suggested(describe_tree(tmp_path))
    assert settings == {"data": "labelme", "images": "pics/{stem}.jpg", "labels": "pics/{stem}.json", "val_ratio": 0.2}


def test_a_windows_list_names_files_in_folders(tmp_path):
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", stems=("cam1/a", "cam1/b"))
    options = {"images": "i/{stem}.*", "labels": "l/{stem}.png", "lists": "{split}.txt"}
    (tmp_path / "train.txt").write_bytes(b"cam1\\a\r\ncam1\\b\r\n")
    assert [build_folder(tmp_path, **options).name(i) for i in range(2)] == ["cam1/a", "cam1/b"]
    (tmp_path / "train.txt").write_bytes(b"cam1\\a\r\ncam1/a\r\n")
    with pytest.raises(DataError, match="line 2: 'cam1/a' is already on line 1"):
        len(build_folder(tmp_path, **options))


@pytest.mark.parametrize(("split", "ratio"), [("val", 0.001), ("train", 0.999)])
def test_a_ratio_that_leaves_a_split_empty_is_answered_with_one_that_does_not(tmp_path, split, ratio):
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png")
    options = {"images": "i/{stem}.*", "labels": "l/{stem}.png"}
    with pytest.raises(
        DataError, match=rf"split '{split}' .* none of the 3 images.*Set data.val_ratio to at (least|most) [\d.]+, or list"
    ) as caught:
        len(build_folder(tmp_path, split, val_ratio=ratio, **options))
    bound = float(str(caught.value).partition("data.val_ratio to at ")[2].split()[1].rstrip(","))
    assert len(build_folder(tmp_path, split, val_ratio=bound, **options)) == 1


def test_labelme_files_are_suggested_where_some_png_images_have_none(tmp_path):
    for number in range(8):
        save(tmp_path / f"im{number}.png", noise())
        if number not in (3, 5):
            write(tmp_path / f"im{number}.json", json.dumps({"version": "5.5.0", "shapes": [], "imagePath": f"im{number}.png"}))
    settings = suggested(describe_tree(tmp_path))
    assert settings == {"data": "labelme", "images": "{stem}.png", "labels": "{stem}.json", "val_ratio": 0.2}


def test_folders_near_a_missing_one_are_listed_where_they_help(tmp_path):
    for name in ("pics", ".cache", *(f"x{number:02}" for number in range(12))):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError) as caught:
        len(build_folder(tmp_path / "pcs/deep"))
    text = str(caught.value)
    assert "Did you mean 'pics'?" in text and "holds the folders pics, x00, " in text and "x08, ... Expected" in text
    with pytest.raises(DataError, match=r"data root /opd is not a folder\. Expected images"):
        len(build_folder(Path("/opd")))


def test_files_in_the_folder_itself_are_listed_without_brackets(tmp_path):
    save(tmp_path / "a.png", noise())
    assert describe_tree(tmp_path).endswith(" there are 1 .png: a.png.")
