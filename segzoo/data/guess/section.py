"""Guess of the ``data`` section that fits a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import yaml

from segzoo.data.checks.layouts import Tree, describe_tree, list_tree, recognize
from segzoo.data.checks.settings_for import folders_left_out, settings_for
from segzoo.data.datasets._splits import AllSplits, index_split
from segzoo.data.file_index import FileIndex, FilePair
from segzoo.data.guess.class_lists import find_class_list
from segzoo.data.guess.label_settings import guess_labelme, guess_masks
from segzoo.data.splits import SPLITS, Split, SplitOrAll
from segzoo.messages import printable
from segzoo.types import DataError, PlainDict

SAMPLE = 200  # label files to read


class GuessedSection(NamedTuple):
    """A guess and what is uncertain about it.

    Attributes:
        section: the ``data`` section, with its name.
        remarks: one line each.
    """

    section: PlainDict
    remarks: list[str]

    def yaml(self) -> str:
        """Format as a file for ``conf/data``."""
        settings = {key: value for key, value in self.section.items() if key != "name"}
        comments = "".join(f"# {remark}\n" for remark in self.remarks)
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
        return f"{comments}defaults: [{self.section['name']}, _self_]\n{text}"


def guess_section(root: str) -> GuessedSection:
    """Guess the settings of the data set in a folder.

    Patterns and splits are inferred from file names, classes from a sample of the label files.

    Raises:
        DataError: there is no such folder, or nothing in it fits; says what lies there.
    """
    top = Path(root).expanduser().absolute()
    if not os.path.isdir(top):
        raise DataError(f"data.root={root}: there is no such folder.")
    tree = list_tree(top)
    if known := _public_set(tree):
        raise DataError(f"data.root={root}: this looks like {known}. Use data={known} with this data.root.")
    patterns = settings_for(tree)
    if not patterns:
        found = describe_tree(top) or "It is empty."
        advice = "" if recognize(top, tree) else " Set data=folder with data.images and data.labels."
        raise DataError(f"data.root={root}: images and labels could not be matched. {found}{advice}")
    section: PlainDict = {
        "name": patterns.pop("data"),
        "root": str(top),
        "title": re.sub(r"\W+", "_", top.name, flags=re.ASCII).strip("_") or "auto",
    }
    section |= {key.removeprefix("data."): value for key, value in patterns.items()}
    left_out = [f"images with labels in {folder} are left out." for folder in folders_left_out(tree, section["images"])]
    pairs, listed = _find_pairs(section), find_class_list(top, tree)
    labeled = [pair.label for pair in pairs if pair.label is not None]
    labels = labeled[:: max(1, len(labeled) // SAMPLE)]
    if not labels:
        raise DataError(f"data.root={root}: no image has a label file, so there is nothing to guess from.")
    settings, remarks = guess_labelme(labels) if section["name"] == "labelme" else guess_masks(labels, listed)
    read = f"{len(labels)} of {len(labeled)} label files were read."
    section |= {key: value for key, value in settings.items() if value is not None}
    return GuessedSection(
        section, [f"guessed by data=auto from {printable(top)}: {read}", *remarks, *_split_remarks(section), *left_out]
    )


def _find_pairs(section: PlainDict) -> list[FilePair]:
    """Find all pairs, and draw val from train where it is missing."""
    splits: dict[Split, str] = SPLITS | section.get("splits", {})
    if "{split}" in section["images"] and not _index(section, splits, "val").exists():
        present = next(
            (name for name in (splits["train"], splits["test"]) if _index(section, {"train": name}, "train").exists()), "train"
        )
        section |= {key: section[key].replace("{split}", present) for key in ("images", "labels")} | {"val_ratio": 0.2}
    return _index(section, splits, "all")()


def _index(section: PlainDict, splits: dict[Split, str], split: SplitOrAll) -> FileIndex | AllSplits:
    patterns = section["images"], section["labels"], section.get("lists")
    return index_split(
        split, section["root"], *patterns, splits, val_ratio=None, group_by=None, need_labels=section["name"] == "folder"
    )


def _split_remarks(section: PlainDict) -> list[str]:
    if "val_ratio" not in section:
        return []
    return ["nothing separates train from val: 20 % of the images are drawn by their names. Images of one scene may be in both."]


def _public_set(tree: Tree) -> str:
    """Name the public data set whose layout a folder has, if any."""
    folders = {part for folder in tree for part in folder.split("/")}
    names = {name for names in tree.values() for name in names}
    if "leftImg8bit" in folders and folders & {"gtFine", "gtCoarse"}:
        return "cityscapes"
    if {"ImageSets", "JPEGImages", "SegmentationClass"} <= folders and not names & {"labelmap.txt", "class_names.txt"}:
        return "voc"
    return ""
