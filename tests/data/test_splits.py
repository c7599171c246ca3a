"""Splits of a data set by name, and all of them together."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from segzoo.config.build import build_data
from segzoo.registry import ConfigError
from segzoo.types import DataError


def make(root, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)


def names(root, split: str, **settings) -> list[str]:
    section = {"name": "folder", "root": str(root), "classes": ["a", "b"], **settings}
    data = build_data(section, split)
    return [data.name(index) for index in range(len(data))]


def test_splits_are_folders_of_their_name(tmp_path):
    for split, stem in (("train", "a"), ("val", "b"), ("test", "c")):
        make(tmp_path, f"images/{split}/{stem}.png", f"labels/{split}/{stem}.png")
    assert [names(tmp_path, split) for split in ("train", "val", "test", "all")] == [["a"], ["b"], ["c"], ["a", "b", "c"]]
    camvid = {"images": "{split}/{stem}.*", "labels": "{split}annot/{stem}.png"}
    make(tmp_path, "test/x.png", "testannot/x.png")
    assert names(tmp_path, "test", **camvid) == ["x"] and names(tmp_path, "all", **camvid) == ["x"]


def test_all_skips_splits_that_do_not_exist(tmp_path):
    make(tmp_path, "images/val/b.png", "labels/val/b.png")
    assert names(tmp_path, "all") == ["b"]
    with pytest.raises(DataError, match="not a folder"):
        names(tmp_path, "test")
    with pytest.raises(DataError, match="not a folder"):
        names(tmp_path / "nowhere", "all")


def test_a_set_without_splits_is_scored_whole(tmp_path):
    make(tmp_path, "i/a.png", "i/b.png", "l/a.png", "l/b.png")
    patterns = {"images": "i/{stem}.*", "labels": "l/{stem}.png"}
    assert names(tmp_path, "all", **patterns) == ["a", "b"]
    with pytest.raises(ConfigError, match="nothing separates train from val"):
        names(tmp_path, "val", **patterns)
    assert names(tmp_path, "all", **patterns, val_ratio=0.5) == ["a", "b"]
    with pytest.raises(ConfigError, match="there is no test"):
        names(tmp_path, "test", **patterns, val_ratio=0.5)
    (tmp_path / "train.txt").write_text("a\n")
    (tmp_path / "test.txt").write_text("b\na\n")
    assert names(tmp_path, "all", **patterns, lists="{split}.txt") == ["a", "b"]
    with pytest.raises(
        DataError, match=r"val.txt: there is no such list. data.lists=\{split\}.txt expects it for 'val'. .*data.lists=null"
    ):
        names(tmp_path, "val", **patterns, lists="{split}.txt")


def test_cityscapes_has_its_test_split_by_name(tmp_path):
    section = {
        "name": "cityscapes",
        "root": str(tmp_path),
        "classes": ["a", "b"],
        "palette": [[0, 0, 0], [9, 9, 9]],
        "label_map": {0: 0, 1: 1},
    }
    for split in ("val", "test"):
        make(tmp_path, f"leftImg8bit/{split}/x/{split}_leftImg8bit.png", f"gtFine/{split}/x/{split}_gtFine_labelIds.png")
    data = {split: build_data(section, split) for split in ("val", "test", "all")}
    assert [len(data[split]) for split in data] == [1, 1, 1]
    assert data["test"].name(0) == "x/test" and data["all"].name(0) == "x/val"


def test_the_hint_names_the_variable_only_where_the_root_uses_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGZOO_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"set data.root=<folder>, or SEGZOO_DATA"):
        names(tmp_path / "nowhere", "val")
    with pytest.raises(DataError, match=r"set data.root=<folder>\.$"):
        names("/nowhere", "val")
    monkeypatch.delenv("SEGZOO_DATA")
    with pytest.raises(DataError, match=r"or SEGZOO_DATA to the folder of all data sets"):
        names("data/nowhere", "val")  # as conf/data/ sets it
