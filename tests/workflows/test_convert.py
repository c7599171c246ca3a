"""The action convert: every format to the same index masks."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import annotation_files
import cv2
import numpy as np
import pytest
import yaml
from annotation_files import CLASSES, DENT, FORMATS, SCRATCH, SIZE, covered, expected, labelme_record, labelme_shape, outline, write
from image_files import encode, noise, save
from PIL import Image, ImageDraw

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build import build_data
from segzoo.messages import format_override
from segzoo.registry import ACTIONS, DATA, ConfigError
from segzoo.types import DataError

ROOT = Path(__file__).parents[2]


def convert(tmp_path: Path, out: str = "out", source: str = "mine", **settings):
    (tmp_path / out).mkdir(exist_ok=True)
    return ACTIONS.build("convert", {}, tmp_path / out, source=str(tmp_path / source), **{"format": "labelme"} | settings)


def build(tmp_path: Path, split: str, **changed):
    settings = yaml.safe_load((tmp_path / "out/conf/data/mine.yaml").read_text())
    del settings["defaults"]
    return DATA.build("folder", split, **settings | changed)


def mask(tmp_path: Path, stem: str = "a", out: str = "out") -> np.ndarray:
    return np.array(Image.open(tmp_path / out / f"labels/{stem}.png"))


def shapes(tmp_path: Path, *own: dict, **changed) -> None:
    save(tmp_path / "mine/a.png", noise(*SIZE))
    write(tmp_path / "mine/a.json", labelme_record(*own, **changed))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_same_data_set(tmp_path, name):
    if name == "datumaro":
        pytest.importorskip("datumaro")
    settings = FORMATS[name](tmp_path / "mine")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    report = convert(tmp_path, **settings)
    assert not report.errors
    train, val = build(tmp_path, "train"), build(tmp_path, "val")
    assert train.info.classes == CLASSES and train.info.name == "mine"
    assert [[sample.name[-1] for sample in split] for split in (train, val)] == [["a", "b"], ["c"]]
    for sample in [*train, *val]:
        np.testing.assert_array_equal(sample.label, expected())
        assert sample.image.shape == (*SIZE, 3)
    counts = report.result["annotations"]
    assert counts["read"] == counts["drawn"] == (3 if "masks" in name or name == "voc" else 6)
    assert report.result["images"] == {"read": 3, "written": 3, "left_out": []}
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in (tmp_path / "out").rglob("*.tmp.*")]


def test_datumaro_that_is_missing_is_named(tmp_path, monkeypatch):
    settings = annotation_files.datumaro(tmp_path / "mine")
    monkeypatch.setitem(sys.modules, "datumaro.components.annotation", None)
    with pytest.raises(ConfigError, match=r'action.format=datumaro needs datumaro.*: pip install "segzoo\[annotations\]"'):
        convert(tmp_path, **settings)


def test_broken_annotations_are_reported_and_the_others_go_on(tmp_path):
    annotation_files.coco(tmp_path / "mine")
    line, odd = [1.0, 1.0, 5.0, 5.0], [3.0, 3.0, 9.0, 3.0, 9.0]
    bad = [
        annotation_files.coco_annotation(5, 0, 7, [line]),
        annotation_files.coco_annotation(6, 1, 9, [odd * 2]),
        annotation_files.coco_annotation(7, 99, 7, [line]),
        annotation_files.coco_annotation(8, 2, 7, [odd], bbox=[20, 18, 5, 4]),
        annotation_files.coco_annotation(9, 2, 0, [annotation_files.flat(outline(SCRATCH))]),
    ]
    write(tmp_path / "mine/annotations/instances_train2017.json", annotation_files.coco_file(["a", "b", "c"], bad))
    (tmp_path / "mine/annotations/instances_val2017.json").unlink()
    report = convert(tmp_path, format="coco", lists=None)
    text = "\n".join(report.errors)
    for number, problem in ((5, "polygon with 2 points"), (6, "category 9"), (7, "image 99"), (8, "5 numbers")):
        assert f"instances_train2017.json, annotation {number}" in text and problem in text
    assert report.result["images"]["left_out"] == ["b.png"]  # nobody knows where annotation 6 lies
    assert (mask(tmp_path, "train2017/a")[1:6, 1:6] == 255).all() and not mask(tmp_path, "train2017/a")[8:].any()
    label = mask(tmp_path, "val2017/c")
    assert (label[covered(SCRATCH)] == 2).all() and (label[18:22, 20:25] == 255).all()
    fates = {"drawn": 1, "ignored": 0, "skipped": 0, "broken": 2, "without pixels": 0, "without an image": 1}
    assert report.result["annotations"] == {"read": 5} | fates | {"of images left out": 1}


def test_an_image_that_is_missing_or_damaged_is_left_out(tmp_path):
    annotation_files.labelme(tmp_path / "mine")
    (tmp_path / "mine/pics/a.png").unlink()
    (tmp_path / "mine/pics/b.png").write_bytes(b"no image")
    report = convert(tmp_path)
    assert (
        len(report.errors) == 2
        and "a.json: there is no image '../pics/a.png'" in report.errors[0]
        and "b.png: is text" in report.errors[1]
    )
    assert sorted(report.result["images"]["left_out"]) == ["a", "b"] and report.result["annotations"]["of images left out"] == 4
    with pytest.raises(DataError, match=r"(?s)no image could be converted:.*a.json.*b.png"):
        (tmp_path / "mine/pics/c.png").unlink()
        convert(tmp_path, "other")


@pytest.mark.parametrize("format", ["coco", "cvat"])
def test_files_of_another_format_are_not_blamed_on_the_classes(tmp_path, format):
    annotation_files.labelme(tmp_path / "mine")
    with pytest.raises(DataError, match=f"no annotations of action.format={format} were found. Set another action.format"):
        convert(tmp_path, format=format)


@pytest.mark.parametrize(
    ("order", "dent_first", "value"),
    [("file", True, 2), ("file", False, 1), ("area", True, 2), ("area", False, 2), ("classes", True, 2), ("classes", False, 2)],
)
def test_overlaps_follow_the_order(tmp_path, order, dent_first, value):
    own = labelme_shape("dent", outline(DENT)), labelme_shape("scratch", outline(SCRATCH))
    shapes(tmp_path, *(own if dent_first else own[::-1]))
    convert(tmp_path, order=order)
    assert (mask(tmp_path)[covered(DENT) & covered(SCRATCH)] == value).all()


def test_the_order_of_the_classes_is_chosen_or_by_name(tmp_path):
    shapes(
        tmp_path,
        labelme_shape("scratch", outline(SCRATCH)),
        labelme_shape("_background_", outline(DENT)),
        labelme_shape("Dent", outline(DENT)),
    )
    assert list(convert(tmp_path).result["classes"]) == ["background", "Dent", "scratch", "ignored"]
    report = convert(tmp_path, "2", classes=["bg", "scratch", "hole"], names={"Dent": "hole"})
    assert list(report.result["classes"]) == ["bg", "scratch", "hole", "ignored"]
    assert report.result["classes"]["hole"]["annotations"] == 1
    report = convert(tmp_path, "3", classes=["bg", "scratch"])
    assert (
        "shape 3 (label 'Dent'): the label 'Dent' is not known" in report.errors[0] and "'action.names={Dent:" in report.errors[0]
    )
    assert (mask(tmp_path, out="3")[covered(DENT)] == 255).all()


def test_a_shape_inside_of_another_of_its_group_is_a_hole(tmp_path):
    hole, island = (6, 6, 15, 12), (8, 8, 10, 9)
    group = [labelme_shape("dent", outline(box), group_id=1) for box in (hole, DENT, island)]
    shapes(tmp_path, *group, labelme_shape("scratch", outline((26, 2, 28, 4)), group_id=1))
    report = convert(tmp_path)
    assert report.result["annotations"]["drawn"] == 4
    np.testing.assert_array_equal(mask(tmp_path) == 1, covered(DENT) & ~covered(hole) | covered(island))


def test_flags_ignore_shapes_and_leave_out_images(tmp_path):
    shapes(tmp_path, labelme_shape("dent", outline(DENT), flags={"difficult": True}), labelme_shape("scratch", outline(SCRATCH)))
    save(tmp_path / "mine/b.png", noise(*SIZE))
    write(tmp_path / "mine/b.json", labelme_record(stem="b", flags={"difficult": True}))
    report = convert(tmp_path, ignore_flags=["difficult"])
    assert (mask(tmp_path)[covered(DENT) & ~covered(SCRATCH)] == 255).all() and report.result["images"]["left_out"] == ["b"]
    assert report.result["annotations"]["ignored"] == report.result["annotations"]["drawn"] == 1


def test_an_embedded_image_is_written_to_a_file(tmp_path):
    import base64

    content = encode(noise(*SIZE), "JPEG")
    data = base64.b64encode(content).decode()
    write(
        tmp_path / "mine/a.json", labelme_record(labelme_shape("dent", outline(DENT)), imageData=data, imagePath="C:\\pics\\a.jpg")
    )
    assert not convert(tmp_path).errors
    assert (tmp_path / "out/images/a.jpg").read_bytes() == content and (mask(tmp_path)[covered(DENT)] == 1).all()


def test_lines_points_and_boxes_need_a_decision(tmp_path):
    shapes(tmp_path, labelme_shape("dent", [[2, 5], [20, 5]], "line"), labelme_shape("dent", [[25, 15]], "point"))
    assert "Set action.line_px=3" in convert(tmp_path).errors[0]
    report = convert(tmp_path, "2", line_px=3)
    assert not report.errors and report.result["classes"]["dent"]["pixels"] == 19 * 3 + 2 + 5  # ends and points are round
    yolo = tmp_path / "boxes"
    annotation_files.yolo(yolo)
    write(yolo / "labels/train/a.txt", "1 0.5 0.5 0.25 0.5\n")
    report = convert(tmp_path, "3", "boxes", format="yolo")
    assert "a.txt, line 1 (label 'dent'): is a box without an outline" in report.errors[0]
    report = convert(tmp_path, "4", "boxes", format="yolo", boxes="fill")
    assert not report.errors and (mask(tmp_path, "train/a", "4")[7:17, 13:19] == 1).all()


def test_crowds_may_be_ignored(tmp_path):
    settings = annotation_files.coco(tmp_path / "mine")
    report = convert(tmp_path, **settings, crowd="ignore")
    assert report.result["annotations"]["ignored"] == 3 and (mask(tmp_path, "val2017/c")[covered(SCRATCH)] == 255).all()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_masks_fit_the_upright_image(tmp_path, orientation):
    """LabelMe shows and labels images upright, whatever their file stores."""
    exif = Image.Exif()
    exif[274] = orientation
    size = SIZE if orientation < 5 else SIZE[::-1]
    save(tmp_path / "mine/a.jpg", noise(*size), exif=exif)
    write(tmp_path / "mine/a.json", labelme_record(labelme_shape("dent", outline(DENT)), imagePath="a.jpg"))
    convert(tmp_path)
    sample = build(tmp_path, "all")[0]
    assert sample.image.shape[:2] == SIZE
    np.testing.assert_array_equal(sample.label, covered(DENT))


def test_nothing_is_overwritten_and_only_own_files_are_replaced(tmp_path):
    shapes(tmp_path, labelme_shape("dent", outline(DENT)))
    for out in ("mine", "mine/converted", "."):
        with pytest.raises(ConfigError, match="originals are never touched"):
            convert(tmp_path, out)
    save(tmp_path / "full/images/precious.png", noise())
    with pytest.raises(ConfigError, match=r"full/images was not written by action=convert. Set another out"):
        convert(tmp_path, "full")
    assert (tmp_path / "full/images/precious.png").exists()
    convert(tmp_path)
    (tmp_path / "mine/a.png").rename(tmp_path / "mine/z.png")
    (tmp_path / "mine/a.json").rename(tmp_path / "mine/z.json")
    convert(tmp_path)  # the tool has asked for overwrite=true
    assert [path.name for path in (tmp_path / "out/images").glob("*.png")] == ["z.png"]
    with pytest.raises(ConfigError, match="the title 'voc' is that of another data set.*Set action.title=my_voc"):
        convert(tmp_path, "2", title="voc")


def test_images_may_be_linked(tmp_path):
    settings = annotation_files.labelme(tmp_path / "mine")
    convert(tmp_path, **settings, images="link")
    assert os.readlink(tmp_path / "out/images/pics/a.png") == str((tmp_path / "mine/pics/a.png").resolve())
    assert build(tmp_path, "val")[0].image.shape == (*SIZE, 3)


def test_images_without_annotations_are_left_out_or_background(tmp_path):
    settings = annotation_files.labelme(tmp_path / "mine")
    (tmp_path / "mine/json/b.json").unlink()
    report = convert(tmp_path, **settings)
    assert any("1 images have no annotation file" in note for note in report.result["notes"])
    assert report.result["splits"] == {"train": 1, "val": 1}
    report = convert(tmp_path, "2", **settings, unlabeled="background")
    assert report.result["splits"] == {"train": 2, "val": 1} and not mask(tmp_path, "pics/b", "2").any()


def test_splits_by_name_last_when_images_of_another_folder_are_added(tmp_path):
    """The first round has the images of one folder only."""
    rounds = []
    for day in ("monday", "tuesday"):
        for number in range(12):
            save(tmp_path / f"mine/{day}/{number}.png", noise(*SIZE))
            write(tmp_path / f"mine/{day}/{number}.json", labelme_record(labelme_shape("dent", outline(DENT))))
        convert(tmp_path)
        data = {split: build(tmp_path, split, val_ratio=0.3) for split in ("train", "val")}
        rounds.append({split: {own.name(index) for index in range(len(own))} for split, own in data.items()})
    first, second = rounds
    assert first["train"] < second["train"] and first["val"] < second["val"]


def test_an_image_that_two_files_annotate_is_an_error(tmp_path):
    annotation_files.coco(tmp_path / "mine")
    content = (tmp_path / "mine/annotations/instances_val2017.json").read_text()
    write(tmp_path / "mine/annotations/stuff_val2017.json", content)
    report = convert(tmp_path, format="coco")
    assert "stuff_val2017.json: its image 'c.png' is annotated in" in report.errors[0]
    assert report.result["images"]["written"] == 3


def test_names_that_yaml_and_omegaconf_would_misread_survive(tmp_path):
    labels = ["yes", "1e3", "${oc.env:HOME}", "a: b", 'q"uote', "日本", "\\${x}"]
    shapes(tmp_path, *(labelme_shape(label, outline(DENT)) for label in labels))
    convert(tmp_path)
    parsed = parse_overrides("train", ["data=mine"], config_dir=str(tmp_path / "out/conf"))  # as the command line does
    assert not parsed.errors
    assert set(build_data(resolve_config(parsed.jobs[0])[0]["data"], "train").info.classes) == {"background", *labels}


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("SEGZOO_DATA"), reason="SEGZOO_DATA is not set")
def test_masks_agree_with_pillow_except_on_outlines(tmp_path):
    """The lists of the splits are kept as well."""
    source = Path(os.environ["SEGZOO_DATA"]) / "bsdata"
    report = ACTIONS.build("convert", {}, tmp_path, source=str(source), format="labelme", title="pitting", images="link")
    assert report.result["annotations"]["drawn"] == report.result["annotations"]["read"] == 360 and not report.errors
    for split in ("train", "val"):
        assert (tmp_path / f"{split}.txt").read_text().split() == [
            f"data/{name}" for name in (source / f"{split}.txt").read_text().split()
        ]
    for path in sorted((source / "label").glob("*.json"))[::12]:
        label = np.array(Image.open(tmp_path / f"labels/data/{path.stem}.png"))
        drawn, outlines = Image.new("L", label.shape[::-1]), np.zeros(label.shape, np.uint8)
        for shape in json.loads(path.read_bytes())["shapes"]:
            points = np.array(shape["points"]) - 0.5  # Pillow and OpenCV measure from the middle of a pixel
            ImageDraw.Draw(drawn).polygon([tuple(point) for point in points.tolist()], fill=1)
            cv2.polylines(outlines, [np.round(points * 256).astype(np.int32)], True, 1, shift=8)
        different = label != np.array(drawn)
        assert label.any() and not different[cv2.dilate(outlines, np.ones((3, 3), np.uint8)) == 0].any(), path.name


@pytest.mark.integration
@pytest.mark.parametrize("name", ["coco", *(pytest.param(name, marks=pytest.mark.slow) for name in FORMATS if name != "coco")])
def test_a_converted_data_set_trains_and_predicts(tmp_path, monkeypatch, name):
    monkeypatch.setattr(annotation_files, "SIZE", (36, 44))  # the model takes no smaller images
    if name == "datumaro":
        pytest.importorskip("datumaro")
    settings = FORMATS[name](tmp_path / "mine")

    def tool(script: str, *words: str) -> str:
        command = [sys.executable, str(ROOT / f"tools/{script}.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    overrides = [shlex.split(format_override(f"action.{key}", value))[0] for key, value in settings.items()]
    text = tool("dataset", "action=convert", "action.source=mine", "out=out", *overrides)
    words = text.rpartition("train: python tools/train.py ")[2].split()
    small = [
        "model=fcn_dilated",
        "backbone.width=0.125",
        "steps=2",
        "batch_size=2",
        "workers=0",
        "num_val_images=0",
        "report=false",
        "out=run",
    ]
    tool("train", *words, *small)
    tool("predict", "ckpt=run", "source=out/images", "out=labels")
    assert len(list((tmp_path / "labels/overlays").rglob("*.png"))) == 3


@pytest.mark.parametrize("line", ["{root}/images/{split}/{stem}.png", "./images/{split}/{stem}.png"])
def test_lists_that_a_yolo_file_names_keep_their_splits(tmp_path, line):
    settings = annotation_files.yolo(tmp_path / "mine")
    for split in ("train", "val"):
        stems = [stem for stem, own in annotation_files.SPLIT.items() if own == split]
        write(
            tmp_path / f"mine/{split}.txt", "".join(line.format(root=tmp_path / "mine", split=split, stem=s) + "\n" for s in stems)
        )
    write(tmp_path / "mine/data.yaml", "train: train.txt\nval: val.txt\nnames: {0: scratch, 1: dent}\n")
    report = convert(tmp_path, **settings)
    assert not report.errors and report.result["splits"] == {"train": 2, "val": 1}


def test_the_background_comes_first_with_shapes(tmp_path):
    shapes(tmp_path, labelme_shape("scratch", outline(SCRATCH)), labelme_shape("dent", outline(DENT)))
    with pytest.raises(ConfigError, match=r"bg is class 2, but .* here dent\. Set 'action\.classes=\[bg,dent,scratch\]'"):
        convert(tmp_path, classes=["dent", "scratch", "bg"])
    report = convert(tmp_path, classes=["dent", "scratch"])
    note = next(note for note in report.result["notes"] if "first class" in note)
    assert note.startswith("1 shape is labeled 'dent'") and note.endswith("'action.classes=[background,dent,scratch]'")
    assert not any("first class" in note for note in convert(tmp_path, "2").result["notes"])


def test_a_label_that_looks_misspelled_is_noted(tmp_path):
    own = [labelme_shape("scratch", outline(SCRATCH))] * 12 + [labelme_shape("scrath", outline(DENT))]
    numbered = [labelme_shape("part_1", outline(DENT)), *[labelme_shape("part_2", outline(DENT))] * 12]
    shapes(tmp_path, *own, *numbered)
    notes = convert(tmp_path).result["notes"]
    expected = "'scrath' (1 annotation) is close to 'scratch' (12). If it is a misspelling: 'action.names={scrath:scratch}'"
    assert [note for note in notes if "close to" in note] == [expected]


def test_the_same_problem_of_several_files_is_listed_once(tmp_path):
    for stem in "abcd":
        save(tmp_path / f"mine/{stem}.png", noise(*SIZE))
        own = [labelme_shape("dent", outline(DENT)), labelme_shape("dnt", outline(SCRATCH))][: 1 if stem == "a" else 2]
        write(tmp_path / f"mine/{stem}.json", labelme_record(*own, imagePath=f"{stem}.png"))
    report = convert(tmp_path, classes=["background", "dent"])
    assert len(report.errors) == 1 and report.errors[0].endswith("(the same in 2 more places)")
    assert len(report.result["errors"]) == 3


@pytest.mark.parametrize("classes", [None, ["background", "dent"]])
def test_labelme_files_that_are_read_as_coco_are_named_once(tmp_path, classes):
    annotation_files.labelme(tmp_path / "mine")
    with pytest.raises(DataError) as caught:
        convert(tmp_path, format="coco", classes=classes)
    assert (
        str(caught.value).count(
            "is not a COCO file but one of LabelMe. Read it with action.format=labelme. (the same in 2 more places)"
        )
        == 1
    )
    assert str(caught.value).count(".json: ") == 1
