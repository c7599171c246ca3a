"""Checks of a data set before training starts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from image_files import SPLIT_FOLDERS, build_folder, make_pairs, noise, save
from PIL import Image

from segzoo.data.channels.sample_bits import leaves_bits_unused
from segzoo.data.checks import check, pair_survey, survey_cache
from segzoo.data.checks.check import check_splits
from segzoo.data.checks.split_report import SplitReport, inspect_split, shuffled
from segzoo.data.image_io import read_header
from segzoo.data.masks import IndexMasks
from segzoo.registry import DATA
from segzoo.types import DataError


def test_inspect_split_counts_images_sizes_and_classes(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS)
    half = np.full((6, 8), 255, np.uint8)
    half[:, :2] = 1
    for stem in "abc":
        save(tmp_path / f"labels/train/{stem}.png", half)
    report = inspect_split(build_folder(tmp_path), seconds=60)
    assert (report.num_images, report.num_read, report.sizes) == (3, 3, {(6, 8): 3})
    assert (
        report.class_fractions == {"x": 0, "y": 1, "z": 0}
        and report.ignored_fraction == 0.75
        and report.absent_classes == ("x", "z")
    )
    assert [line.split(" ")[0] for line in report.warnings()] == ["in", "75%"]
    assert inspect_split(build_folder(tmp_path), seconds=1e-9).num_read == 1
    assert inspect_split(build_folder(tmp_path), seconds=1e-9, at_least=2).num_read == 2
    save(tmp_path / "labels/train/c.png", half * 0 + 7)
    with pytest.raises(DataError, match=r"c\.png: holds the values 7"):
        inspect_split(build_folder(tmp_path), seconds=60)


def test_nearly_black_images_are_noted(tmp_path):
    splits = make_splits(tmp_path)
    assert not any("black" in line for line in check_splits(splits)["train"].warnings())
    save(tmp_path / "images/train/a.png", np.arange(48, dtype=np.uint16).reshape(6, 8) * 80)  # 12 bits
    lines = check_splits({split: build_folder(tmp_path, split) for split in splits})["train"].warnings()
    assert (
        sum(
            line.startswith("of 3 images, 1 (first a) store samples below 4096 in 16 bits and are read as nearly black.")
            for line in lines
        )
        == 1
    )


def test_dark_images_of_8_bits_are_as_they_are(tmp_path):
    black = np.full((6, 8, 3), 9, np.uint8)
    save(tmp_path / "night.png", black)
    save(tmp_path / "deep.png", black[..., 0].astype(np.uint16) * 100)
    (tmp_path / "unknown.raw").write_bytes(b"raw")
    found = {path.name for path in tmp_path.iterdir() if leaves_bits_unused(black, path)}
    assert found == {"deep.png"} and not leaves_bits_unused(black + 90, tmp_path / "deep.png")


def test_inspect_split_with_only_ignored_pixels_and_with_many_classes(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS, stems=["a"])
    save(tmp_path / "labels/train/a.png", np.full((6, 8), 255, np.uint8))
    report = inspect_split(build_folder(tmp_path))
    assert report.ignored_fraction == 1 and len(report.warnings()) == 1 and "all pixels are ignored" in report.warnings()[0]
    save(tmp_path / "labels/train/a.png", np.array([[256] * 8] * 6, np.uint16))
    names = (*[f"c{i}" for i in range(255)], "ignore", "last")
    assert inspect_split(build_folder(tmp_path, classes=names)).class_fractions["last"] == 1


def make_splits(root: Path, **options):
    for split in ("train", "val"):
        make_pairs(root, f"images/{split}/{{stem}}.png", f"labels/{split}/{{stem}}.png")
    return {split: build_folder(root, split, **options) for split in ("train", "val")}


def save_palette(path: Path, ids: np.ndarray, colors: list[list[int]]) -> None:
    image = Image.fromarray(ids.astype(np.uint8)).convert("P")
    image.putpalette(np.array(colors, np.uint8).tobytes())
    save(path, image)


def test_a_valid_data_set_is_checked_whole(tmp_path):
    splits = make_splits(tmp_path)
    reports = check_splits(splits)
    for split, dataset in splits.items():
        labels = np.stack([dataset[i].label for i in range(3)])
        assert reports[split].num_read == reports[split].num_images == 3 and reports[split].sizes == {(6, 8): 3}
        expected = {name: float((labels == i).mean()) for i, name in enumerate("xyz")}
        assert reports[split].class_fractions == pytest.approx(expected)
    assert check_splits({"train": DATA.build("parts", "train", height=64, width=64, train_images=2)})["train"].num_read == 2


def test_all_errors_of_all_splits_are_reported_at_once(tmp_path):
    splits = make_splits(tmp_path)
    save(tmp_path / "labels/train/a.png", np.full((6, 8), 7, np.uint8))
    save(tmp_path / "labels/train/b.png", np.zeros((6, 9), np.uint8))
    (tmp_path / "images/train/c.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "images/val/a.png").write_bytes(b"<html>")
    save(tmp_path / "labels/val/b.png", noise(6, 8))
    with pytest.raises(DataError) as caught:
        check_splits(splits)
    text = str(caught.value)
    assert text.startswith("5 errors in the data:\n1. ")
    for expected in (r"train/a.png: holds the values 7 (48 pixels)", "train/b.png: made for 9x6 pixels (W x H), but its image has 8x6",
                     "train/c.png: ", "val/a.png: is a web page", "val/b.png: is a color image of 48 colors"):  # fmt: skip
        assert expected in text


def test_missing_files_of_both_splits_are_reported_at_once(tmp_path):
    splits = make_splits(tmp_path)
    (tmp_path / "labels/train/a.png").unlink()
    (tmp_path / "images/val/b.png").unlink()
    with pytest.raises(
        DataError, match=r"(?s)2 errors in the data:\n1. split 'train' .* have no label .*: a\..*\n2. split 'val' .* no image"
    ):
        check_splits(splits)
    gone = {
        split: build_folder(tmp_path / "gone", split, images="{stem}.png", labels="{stem}_m.png", val_ratio=0.5)
        for split in ("train", "val")
    }
    with pytest.raises(DataError, match=r"^data root .*gone is not a folder"):
        check_splits(gone)


def test_one_wrong_value_late_in_the_validation_set_is_found(tmp_path):
    splits = make_splits(tmp_path)
    make_pairs(tmp_path, "images/val/{stem}.png", "labels/val/{stem}.png", [f"v{i:03}" for i in range(60)])
    save(tmp_path / "labels/val/v059.png", np.full((6, 8), 9, np.uint8))
    with pytest.raises(DataError, match=r"labels/val/v059\.png: holds the values 9"):
        check_splits(splits)


def test_images_below_the_models_minimum_are_named_by_path(tmp_path):
    splits = make_splits(tmp_path)
    save(tmp_path / "images/train/a.png", noise(50, 1))
    save(tmp_path / "labels/train/a.png", np.zeros((50, 1), np.uint8))
    check_splits({"train": splits["train"]}, {"train": 1})
    with pytest.raises(DataError, match=r"images/val/a\.png: 8x6 pixels .* minimum of 32x32.*the same in 2 more places"):
        check_splits(splits, {"val": 32})


def test_of_a_large_split_a_sample_is_read(tmp_path, monkeypatch):
    splits = make_splits(tmp_path)
    monkeypatch.setattr(check, "WHOLE_SET", 2)
    monkeypatch.setattr(check, "SAMPLE_SECONDS", -1.0)
    monkeypatch.setattr(pair_survey, "BATCH", 1)
    first, *others = shuffled(3)
    save(tmp_path / f"labels/train/{'abc'[others[0]]}.png", np.full((6, 8), 7, np.uint8))
    (tmp_path / f"images/train/{'abc'[others[1]]}.png").write_bytes(b"")
    report = check_splits({"train": splits["train"]})["train"]
    assert (report.num_images, report.num_read) == (3, 1)
    (tmp_path / f"images/train/{'abc'[first]}.png").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{'abc'[first]}\.png: is empty"):
        check_splits({"train": splits["train"]})


def test_unchanged_masks_are_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pair_survey, "MIN_CACHED", 1)
    monkeypatch.setattr(check, "inspect_split", lambda dataset, **limits: SplitReport(0, 0, {}, {}, 0))
    splits = make_splits(tmp_path)
    first = check_splits(splits)
    read: list[str] = []
    survey = IndexMasks.survey
    monkeypatch.setattr(IndexMasks, "survey", lambda self, path, *more: read.append(path.name) or survey(self, path, *more))
    assert check_splits(splits) == first and read == []
    save(tmp_path / "labels/val/b.png", np.full((6, 8), 2, np.uint8))
    assert check_splits(splits)["val"] != first["val"] and read == ["b.png"]
    relabeled = {split: build_folder(tmp_path, split, label_map={0: 0, 1: 0, 2: 1}) for split in splits}
    assert check_splits(relabeled)["train"].class_fractions["z"] == 0 and read == ["b.png"]  # raw values depend on no setting
    for content in (b"", b"[1]", b"{", b'{"x": 1}', json.dumps({os.path.abspath(tmp_path / "labels/val/a.png"): [1, 2]}).encode()):
        for path in (tmp_path / "cache/segzoo").iterdir():
            path.write_bytes(content)
        assert check_splits(splits)["train"] == first["train"]


@pytest.mark.parametrize("home", ["/dev/null", ""])
def test_without_a_cache_directory_nothing_is_cached(tmp_path, monkeypatch, home):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.setattr(pair_survey, "MIN_CACHED", 1)
    assert check_splits(make_splits(tmp_path))["val"].num_read == 3
    monkeypatch.setattr(survey_cache.os.path, "expanduser", lambda path: path)
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.chdir(tmp_path)
    check_splits(make_splits(tmp_path))
    assert not (tmp_path / "~").exists()


def test_palettes_that_differ_from_file_to_file_are_an_error(tmp_path):
    splits = make_splits(tmp_path)
    ids = np.array([[0, 1, 2, 0]] * 4)
    for split in splits:
        for stem in "abc":
            save(tmp_path / f"images/{split}/{stem}.png", noise(4, 4))
            save_palette(tmp_path / f"labels/{split}/{stem}.png", ids, [[0, 0, 0], [255, 0, 0], [0, 0, 255]])
    check_splits(splits)
    save_palette(tmp_path / "labels/train/b.png", ids * 0, [[0, 0, 255], [0, 0, 0]])
    with pytest.raises(DataError) as caught:
        check_splits(splits)
    expected = (
        "b.png: its palette gives index 0 the color [0, 0, 255], but that of .*train/a.png gives it [0, 0, 0], so the indices are no class "
        "ids. Read the colors instead: use data.masks=color 'data.palette=[[0,0,255],[0,0,0],[255,0,0]]'. Put the colors in the order of "
        "data.classes."
    )
    assert all(part in str(caught.value) for part in expected.split(".*"))
    save_palette(tmp_path / "labels/train/b.png", ids * 0, [[0, 0, 0], [7, 7, 7]])  # an unused index may have any color
    check_splits(splits)


def test_a_palette_in_the_settings_is_compared_with_that_of_the_masks(tmp_path):
    colors = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    for palette, expected in {
        ((0, 0, 0), (128, 0, 0), (0, 128, 0)): None,
        (
            (0, 0, 0),
            (255, 0, 0),
            (0, 255, 0),
        ): r"class 1 the color \[128, 0, 0\], but data.palette \[255, 0, 0\]. The indices decide",
        (
            (0, 0, 0),
            (0, 128, 0),
            (128, 0, 0),
        ): r"which has it for class 2. If the colors are right, .* data.masks=color.* data.palette=null",
    }.items():
        splits = make_splits(tmp_path, palette=palette)
        for split in splits:
            for stem in "abc":
                save_palette(tmp_path / f"labels/{split}/{stem}.png", np.arange(48).reshape(6, 8) % 3, colors)
        if expected is not None and expected.startswith("which"):
            with pytest.raises(DataError, match=expected):
                check_splits(splits)
            continue
        notes = check_splits(splits)["train"].warnings()
        assert len(notes) == (expected is not None)
        if expected:
            assert re.search(expected, notes[0])


def test_binary_masks_of_a_whole_split_are_diagnosed_with_any_number_of_classes(tmp_path):
    splits = make_splits(tmp_path)
    for stem in "abc":
        save(tmp_path / f"labels/train/{stem}.png", np.array([[0, 255] * 4] * 6, np.uint8))
    with pytest.raises(
        DataError, match=r"train/a\.png and 2 more of 3 masks hold only 0 and 255.*'data.label_map=\{0:0,255:1\}' with two classes"
    ):
        check_splits(splits)
    save(tmp_path / "labels/train/b.png", np.array([[0, 2] * 4] * 6, np.uint8))
    check_splits(splits)
    confirmed = {split: build_folder(tmp_path, split, label_map={0: 0, 1: 1, 2: 2, 255: 255}) for split in splits}
    for stem, values in {"a": [0, 1, 255, 255], "b": [0, 255, 0, 255]}.items():
        save(tmp_path / f"labels/train/{stem}.png", np.array([values * 2] * 6, np.uint8))
    check_splits(confirmed)


@pytest.mark.parametrize("voc", [True, False])
def test_color_masks_are_answered_with_a_palette_to_paste(tmp_path, voc):
    colors = [[0, 0, 0], [0, 128, 0], [224, 224, 192]] if voc else [[9, 9, 9], [200, 0, 0], [0, 0, 200]]
    splits = make_splits(tmp_path)
    for split in splits:
        for number, stem in enumerate("abc"):
            save(
                tmp_path / f"labels/{split}/{stem}.png",
                np.array(colors, np.uint8)[np.minimum(np.arange(48).reshape(6, 8) % 6, number)],
            )
    with pytest.raises(DataError) as caught:
        check_splits(splits)
    text = str(caught.value)
    assert "train/a.png and 2 more of 3 masks are color images of 3 colors" in text
    fix = "data.masks=color 'data.palette=[[0,0,0],[128,0,0],[0,128,0]]' 'data.ignore_colors=[[224,224,192]]'. These are the colors of Pascal VOC"
    if not voc:
        fix = "data.masks=color 'data.palette=[[9,9,9],[200,0,0],[0,0,200]]'. Put the colors in the order of data.classes"
    assert fix in text
    options = (
        {"palette": ((0, 0, 0), (128, 0, 0), (0, 128, 0)), "ignore_colors": ((224, 224, 192),)}
        if voc
        else {"palette": tuple(map(tuple, colors))}
    )
    fixed = {split: build_folder(tmp_path, split, masks="color", **options) for split in splits}
    assert check_splits(fixed)["val"].num_read == 3


def test_a_label_that_differs_in_case_is_noted_once(tmp_path):
    for stem in "ab":
        save(tmp_path / f"train/{stem}.png", noise(40, 40))
        triangle = {"label": "Pitting", "points": [[5, 5], [30, 8], [20, 30]], "shape_type": "polygon"}
        (tmp_path / f"train/{stem}.json").write_text(json.dumps({"shapes": [triangle], "imageHeight": 40, "imageWidth": 40}))
    dataset = DATA.build("labelme", "train", root=str(tmp_path), classes=("background", "pitting"))
    assert check_splits({"train": dataset})["train"].warnings() == ["the label 'Pitting' is read as 'pitting'."]


def test_all_invalid_labelme_files_are_listed(tmp_path):
    for number in range(30):
        save(tmp_path / f"train/{number:02}.png", noise(40, 40))
        shapes = (
            [{"label": "pit", "points": [[5, 5], [30, 8]], "shape_type": "polygon"}] if number % 2 else [{"label": f"x{number}"}]
        )
        (tmp_path / f"train/{number:02}.json").write_text(json.dumps({"shapes": shapes, "imageHeight": 40, "imageWidth": 40}))
    (tmp_path / "train/04.json").write_text("{")
    with pytest.raises(DataError) as caught:
        check_splits({"train": DATA.build("labelme", "train", root=str(tmp_path), classes=("background", "pit"))})
    text = str(caught.value)
    assert "01.json, shape 1 (label 'pit'): polygon with 2 points" in text and "(the same in 14 more places)" in text
    assert "04.json: is not valid JSON" in text


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_the_head_of_an_image_gives_its_upright_size(tmp_path, form):
    assert read_header(save(tmp_path / "a", noise(20, 30), form)) == ((20, 30), 1)
    if form != "BMP":
        exif = Image.Exif()
        exif[274] = 6
        assert read_header(save(tmp_path / "a", noise(20, 30), form, exif=exif)) == ((30, 20), 6)
    data = (tmp_path / "a").read_bytes()
    for length in (0, 3, 10, 20):
        (tmp_path / "a").write_bytes(data[:length])
        with pytest.raises(DataError, match="/a: "):
            read_header(tmp_path / "a")


def test_a_png_with_its_orientation_behind_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[274] = 8
    data = save(tmp_path / "a.png", noise(20, 30), exif=exif).read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    (tmp_path / "a.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    assert read_header(tmp_path / "a.png") == ((30, 20), 8)
