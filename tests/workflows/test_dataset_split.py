"""The action ``split`` of tools/dataset.py, and ``data.val_ratio`` as the trainer reports it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_actions import compose_action, run_action
from image_files import build_folder, make_pairs, noise, save

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.cli.training import crop_notes, describe_ratio_split
from segzoo.config.build import build_data
from segzoo.data.checks.check import check_splits
from segzoo.data.splits import read_list
from segzoo.data.splitting.grouping import group_names
from segzoo.registry import ACTIONS, ConfigError
from segzoo.types import DataError
from segzoo.workflows.dataset._report import existing_splits

OPTIONS = {"images": "i/{stem}.*", "labels": "l/{stem}.png"}
BY_PART = r"^(.*)_\d+$"


def make_parts(root: Path, parts: int = 10, exposures: int = 3) -> list[str]:
    stems = [f"part{part}_{exposure}" for part in range(parts) for exposure in range(exposures)]
    make_pairs(root, "i/{stem}.png", "l/{stem}.png", stems)
    return stems


def run_split(root: Path, out: Path, data: Mapping[str, object] | None = None, **settings):
    section = {"name": "folder", "root": str(root), "classes": ["x", "y", "z"], **OPTIONS, **(data or {})}
    return ACTIONS.build("split", section, out, **settings)


def lists(out: Path, name: str = "split") -> dict[str, list[str]]:
    return {path.stem: read_list(path) for path in sorted((out / "lists" / name).iterdir())}


def test_lists_divide_the_images_and_keep_groups_together(tmp_path):
    stems = make_parts(tmp_path / "my")
    report = run_split(tmp_path / "my", tmp_path / "out", group_by=BY_PART, test_ratio=0.1)
    divided = lists(tmp_path / "out")
    assert sorted(stem for own in divided.values() for stem in own) == stems
    assert {name: len(own) for name, own in divided.items()} == {"train": 21, "val": 6, "test": 3}
    parts = [{stem.partition("_")[0] for stem in own} for own in divided.values()]
    assert sum(map(len, parts)) == 10
    for row in ("| images | 21 (70.0%) | 6 (20.0%) | 3 (10.0%) |", "| groups | 7 | 2 | 1 |", "| with x | 21 | 6 | 3 |"):
        assert row in report.text
    assert report.result["sides"]["val"] == {"images": 6, "groups": 2, "class_images": [6, 6, 6]} and not report.result["notes"]


def test_the_same_seed_gives_the_same_lists(tmp_path):
    make_parts(tmp_path / "my")
    found = []
    for number, seed in enumerate((1, 1, 2)):
        run_split(tmp_path / "my", tmp_path / str(number), seed=seed)
        found.append(lists(tmp_path / str(number)))
    assert found[0] == found[1] != found[2]


def test_the_written_data_set_is_trained_with_config_dir(tmp_path):
    make_parts(tmp_path / "my")
    data = ["data=folder", f"data.root={tmp_path / 'my'}", "data.classes=[x,y,z]", "data.palette=[[0,0,0],[1,2,3],[4,5,6]]"]
    data += ["data.images='i/{stem}.*'", "data.labels='l/{stem}.png'", "data.val_ratio=0.5", 'data.title="1e3"']
    report = run_action(tmp_path / "out", *data, "action=split")
    command = report.text.splitlines()[-1]
    assert command == f"train with: python tools/train.py --config-dir {tmp_path}/out/conf data=split"
    parsed = parse_overrides("train", ["data=split"], config_dir=str(tmp_path / "out/conf"))
    assert not parsed.errors
    section = resolve_config(parsed.jobs[0])[0]["data"]
    assert section["title"] == "1e3" and section["palette"][2] == [4, 5, 6]
    for split, stems in lists(tmp_path / "out").items():
        data = build_data(section, split)
        assert [data.name(index) for index in range(len(data))] == stems


def test_every_image_is_held_out_by_one_fold(tmp_path):
    stems = make_parts(tmp_path / "my")
    report = run_split(tmp_path / "my", tmp_path / "out", group_by=BY_PART, folds=5)
    folds = [lists(tmp_path / "out", f"fold{number}") for number in range(1, 6)]
    assert sorted(stem for fold in folds for stem in fold["val"]) == stems
    assert all(sorted(fold["train"] + fold["val"]) == stems and len(fold["val"]) == 6 for fold in folds)
    assert report.text.endswith("-m data=fold1,fold2,fold3,fold4,fold5")


def test_images_that_look_the_same_never_fall_on_two_sides(tmp_path):
    for index in range(16):
        image = cv2.resize(noise(6, 6, index // 2), (64, 48), interpolation=cv2.INTER_CUBIC)
        save(tmp_path / f"my/i/p{index}.jpg" if index % 2 else tmp_path / f"my/i/p{index}.png", image)
        save(tmp_path / f"my/l/p{index}.png", np.full((48, 64), index % 3, np.uint8))
    for seed in range(3):
        out = tmp_path / str(seed)
        report = run_split(tmp_path / "my", out, val_ratio=0.5, seed=seed)
        divided = lists(out)
        for index in range(0, 16, 2):
            assert (f"p{index}" in divided["val"]) == (f"p{index + 1}" in divided["val"])
    (note,) = report.result["notes"]
    assert note.startswith("16 images look the same as another one and stay together, in 8 groups: p0, p1; p10, p11; p12, p13, ...")
    ignored = run_split(tmp_path / "my", tmp_path / "ignored", val_ratio=0.5, near_duplicates="ignore")
    divided = lists(tmp_path / "ignored")
    assert not ignored.result["notes"] and any(
        (f"p{n}" in divided["val"]) != (f"p{n + 1}" in divided["val"]) for n in range(0, 16, 2)
    )


def test_hashes_assign_as_the_trainer_does(tmp_path):
    make_parts(tmp_path / "my", parts=20, exposures=2)
    for number, group_by in enumerate((None, BY_PART)):
        run_split(tmp_path / "my", tmp_path / f"out{number}", method="hash", val_ratio=0.3, group_by=group_by)
        for split, stems in lists(tmp_path / f"out{number}").items():
            data = build_folder(tmp_path / "my", split, val_ratio=0.3, group_by=group_by, **OPTIONS)
            assert [data.name(index) for index in range(len(data))] == stems


def test_groups_of_a_ratio_stay_together_and_do_not_move(tmp_path):
    make_parts(tmp_path, parts=30, exposures=2)
    options = {**OPTIONS, "val_ratio": 0.3, "group_by": BY_PART}

    def stems(split):
        data = build_folder(tmp_path, split, **options)
        return {data.name(index) for index in range(len(data))}

    train, val = stems("train"), stems("val")
    assert len(train | val) == 60 and not {s[:-2] for s in train} & {s[:-2] for s in val}
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", ["part3_9", "new_1", "new_2"])
    assert train < stems("train") | {"part3_9", "new_1"} and val <= stems("val")
    assert ("part3_9" in stems("val")) == ("part3_0" in val)
    with pytest.raises(DataError, match="each group is assigned by the hash"):
        len(build_folder(tmp_path, "val", **options | {"val_ratio": 1e-9}))
    with pytest.raises(ConfigError, match=r"data.group_by='\(a\)' keeps groups together that data.val_ratio assigns"):
        build_folder(tmp_path, group_by="(a)")
    with pytest.raises(ConfigError, match="data.group_by='a': has no part in parentheses"):
        build_folder(tmp_path, group_by="a", val_ratio=0.5, **OPTIONS)


def test_the_trainer_shows_what_a_ratio_assigns(tmp_path):
    make_parts(tmp_path, parts=10, exposures=4)
    section = {"val_ratio": 0.3, "group_by": None}
    splits = {split: build_folder(tmp_path, split, val_ratio=0.3, **OPTIONS) for split in ("train", "val")}
    text, notes = describe_ratio_split(section, splits, check_splits(splits))
    val = len(splits["val"])
    assert (
        text.startswith("data.val_ratio=0.3 assigns\n")
        and f"| images | {40 - val} ({1 - val / 40:.1%}) | {val} ({val / 40:.1%}) |" in text
    )
    assert f"| with z | {40 - val} | {val} |" in text
    assert (
        len(notes) == 1
        and notes[0].startswith("names with the same prefix fall on several sides: 'part")
        and "'data.group_by=" in notes[0]
    )
    grouped = {split: build_folder(tmp_path, split, val_ratio=0.3, group_by=r"(part\d+)", **OPTIONS) for split in ("train", "val")}
    text, notes = describe_ratio_split({"val_ratio": 0.3, "group_by": r"(part\d+)"}, grouped, check_splits(grouped))
    groups = {split: len({data.name(i)[:5] for i in range(len(data))}) for split, data in grouped.items()}
    assert f"| groups | {groups['train']} | {groups['val']} |" in text and notes == []
    assert describe_ratio_split({"val_ratio": None}, splits, {}) == ("", [])


def test_a_crop_far_above_the_images_is_noted():
    sizes = {(360, 480): 7, (180, 240): 1}
    augment = {"name": "standard", "scale": True, "scale_range": [0.5, 2.0]}
    assert (
        crop_notes(augment | {"crop": [720, 1440]}, sizes)
        == crop_notes(augment | {"crop": None}, sizes)
        == crop_notes({"name": "none"}, sizes)
        == []
    )
    [note] = crop_notes(augment | {"crop": [1440, 1920]}, sizes)
    assert note.startswith("train: augment.crop=[1440, 1920] is far larger than the images: at most 25% of a crop is image")
    assert crop_notes(augment | {"crop": [720, 960], "scale": False}, sizes)


def test_a_split_by_names_that_several_images_share_is_noted(tmp_path):
    make_parts(tmp_path / "my")
    report = run_split(tmp_path / "my", tmp_path / "out", val_ratio=0.5)
    assert any("names with the same prefix" in note and "'action.group_by=" in note for note in report.result["notes"])


INVALID = {
    "its own splits": ({"name": "parts"}, {}, "data=parts has splits of its own. .* folder and labelme"),
    "folders": ({"images": "{split}/{stem}.*"}, {}, r"data.images=\{split\}/\{stem\}.*a list cannot change that"),
    "no train": ({}, {"val_ratio": 0.7, "test_ratio": 0.3}, "val_ratio=0.7 and action.test_ratio=0.3 leave nothing for train"),
    "folds": ({}, {"folds": 3, "test_ratio": 0.1}, "action.folds divides all images"),
    "seed": ({}, {"method": "hash", "seed": 1}, "action.seed=1 does not change action.method=hash"),
    "pattern": ({}, {"group_by": "part"}, "action.group_by='part': has no part in parentheses"),
}


@pytest.mark.parametrize("kind", INVALID)
def test_settings_that_cannot_work_are_rejected(tmp_path, kind):
    data, settings, expected = INVALID[kind]
    with pytest.raises(ConfigError, match=expected):
        run_split(tmp_path, tmp_path / "out", data, **settings)


def test_names_that_a_list_cannot_hold_are_an_error(tmp_path):
    make_parts(tmp_path)
    make_pairs(tmp_path, "i/{stem}.png", "l/{stem}.png", ["a "])
    with pytest.raises(DataError, match="have no image"):
        run_split(tmp_path, tmp_path / "out")


def test_a_data_set_without_splits_is_whole(tmp_path):
    make_parts(tmp_path, parts=2)
    section = {"name": "folder", "root": str(tmp_path), "classes": ["x", "y", "z"], **OPTIONS}
    splits = existing_splits(section)
    assert list(splits) == ["all"] and len(splits["all"]) == 6
    with pytest.raises(ConfigError, match="palette"):
        existing_splits({**section, "palette": [[0, 0, 0]]})


@pytest.mark.data
def test_bsdata_is_split_by_spindle_position(tmp_path):
    root = Path(os.environ.get("SEGZOO_DATA", "")) / "bsdata"
    if not (root / "train.txt").is_file():
        pytest.skip("SEGZOO_DATA names no folder with bsdata")
    by_position = r"action.group_by='(\d{6}_\d{3})_crop|^(KGT\d-[SV]-\d+)'"
    report = run_action(tmp_path, "data=bsdata", "action=split", by_position, "action.near_duplicates=ignore")
    pattern = compose_action("data=bsdata", "action=split", by_position)["action"]["group_by"]
    divided = lists(tmp_path)
    train, val = (set(group_names(divided[split], pattern)) for split in ("train", "val"))
    assert len(divided["train"]) + len(divided["val"]) == 290 and not train & val
    assert (
        sum(not group.startswith("KGT") for group in train | val) == 10 and len(train | val) == 59
    )  # ten positions, 49 images of KGT
    sides = report.result["sides"]
    assert 0.15 < sides["val"]["images"] / 290 < 0.25 and sides["val"]["class_images"][1] == sides["val"]["images"]
