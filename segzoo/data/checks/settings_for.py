"""Guess of the settings that fit the files below a folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from segzoo.types import PlainDict

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
LABEL_FOLDER = re.compile(r"mask|label|annot|(^|[/_])(gt|ann|seg)|segmentationclass", re.IGNORECASE)
IMAGE = re.compile(r"\.(?i:png|jpe?g|bmp|tiff?|webp|p[pgn]m)$")
LABEL = re.compile(r"\.(?i:png|bmp|tiff?|gif|json)$")
SAMPLE = 50  # label files of a folder that are matched with images


class Match(NamedTuple):
    """Two folders whose images and labels belong together.

    Attributes:
        count: labels of a sample that match.
        images, labels: the folders, with ``{split}`` where it differs.
        ends: what follows the stem in the names of images and of labels.
        kind: the data set ``folder`` or ``labelme``.
    """

    count: int
    images: str
    labels: str
    ends: tuple[str, str]
    kind: str


def settings_for(tree: dict[str, list[str]]) -> PlainDict:
    """Guess settings that match images with labels.

    Args:
        tree: folder relative to the root -> names of its files.

    Returns:
        Setting of the data set ``folder`` or ``labelme`` -> value, empty if nothing matches.
    """
    matches = _matches(tree)
    if not matches:
        return {}
    best = max(matches, key=lambda match: match.count)  # the first of several
    images, labels = _common_folders(best, matches, tree)
    start_of = {path: "" if path == "." else f"{path}/" for path in (images, labels)}
    patterns = {
        "data": best.kind,
        "data.images": f"{start_of[images]}{{stem}}{best.ends[0]}",
        "data.labels": f"{start_of[labels]}{{stem}}{best.ends[1]}",
    }
    splits = [split for folder in tree for pattern, split in [_split_of(folder)] if pattern == images]
    return patterns | _separation(images, splits, tree)


def folders_left_out(tree: dict[str, list[str]], images: str) -> list[str]:
    """List the folders with images and labels that a pattern leaves out.

    Args:
        tree: as for ``settings_for``.
        images: pattern of the images, as ``settings_for`` returns it.
    """
    start = images.partition("{stem}")[0].rstrip("/")
    return sorted({match.images for match in _matches(tree) if start and f"{match.images}/".find(f"{start}/") != 0})


def _matches(tree: dict[str, list[str]]) -> list[Match]:
    groups: dict[str, dict[str, list[str]]] = {}  # folder with {split} -> name of the split on disk -> files
    for folder, names in tree.items():
        pattern, split = _split_of(folder)
        groups.setdefault(pattern, {})[split] = names
    found = [
        _match(images, groups[images][split], labels, groups[labels][split])
        for images in groups
        for labels in groups
        for split in groups[images].keys() & groups[labels].keys()
    ]
    return [match for match in found if match]


def _common_folders(best: Match, matches: Sequence[Match], tree: dict[str, list[str]]) -> tuple[str, str]:
    """Return the folders above the best match, if others match alike.

    ``monday`` becomes ``.`` if there is ``tuesday``, as the stem may hold folders. Folders of splits stay as they are, and so does the match if there
    are images without labels below.
    """
    own = best.images, best.labels
    images, labels = (path.split("/") if path != "." else [] for path in own)
    while images and labels and images[-1] == labels[-1]:
        images, labels = images[:-1], labels[:-1]
    above = "/".join(images) or ".", "/".join(labels) or "."
    alike = {
        match.images
        for match in matches
        if (match.ends, match.kind) == (best.ends, best.kind)
        if (inner := _below(match.images, above[0])) is not None and inner == _below(match.labels, above[1])
    }
    unlabeled = (_below(folder, above[0]) is not None and any(map(IMAGE.search, tree[folder])) for folder in tree.keys() - alike)
    if len(alike) == 1 or "{split}" in best.images or (best.kind == "folder" and any(unlabeled)):
        return own
    return above


def _below(folder: str, top: str) -> str | None:
    """Return a folder relative to ``top``, None if it lies elsewhere."""
    relative = os.path.relpath(folder, top)
    return None if relative.startswith("..") else relative


def _split_of(folder: str) -> tuple[str, str]:
    """Replace the name of a split in a path.

    ``images/train`` becomes ``images/{split}`` and ``train``.
    """
    for name in (name for names in SPLIT_NAMES.values() for name in names):
        found = re.search(rf"(?<![A-Za-z]){name}(?![A-Za-z])|(?<![A-Za-z]){name}(?=annot|mask|label|gt)", folder, re.IGNORECASE)
        if found:
            return folder[: found.start()] + "{split}" + folder[found.end() :], found[0]
    return folder, ""


def _match(images: str, image_names: list[str], labels: str, label_names: list[str]) -> Match | None:
    """Match label files with images by their stems.

    Returns:
        The match if at least half of the labels have an image.
    """
    extensions: dict[str, list[str]] = {}  # by stem
    for name in filter(IMAGE.search, image_names):
        extensions.setdefault(os.path.splitext(name)[0], []).append(os.path.splitext(name)[1])
    found: Counter[tuple[str, str, str]] = Counter()
    sample = [name for name in label_names if LABEL.search(name)][:SAMPLE]
    for name in sample:
        stem, extension = os.path.splitext(name)
        for end in range(len(stem), 0, -1):
            others = extensions.get(stem[:end], [])
            if images == labels and end == len(stem):
                others = [other for other in others if other != extension]  # not the label file itself
            if others:
                found[stem[end:], extension, others[0]] += 1
                break
    if not found:
        return None
    (suffix, extension, image_extension), count = found.most_common(1)[0]
    is_label = bool(LABEL_FOLDER.search(labels) or suffix) or extension == ".json" or image_extension.lower() in (".jpg", ".jpeg")
    num_labels = sum(name.endswith(extension) for name in sample)  # others may be the images themselves
    if 2 * count < num_labels or not is_label or (LABEL_FOLDER.search(images) and images != labels):
        return None
    ending = image_extension if images == labels else ".*"
    return Match(count, images, labels, (ending, f"{suffix}{extension}"), "labelme" if extension == ".json" else "folder")


def _separation(images: str, splits: list[str], tree: dict[str, list[str]]) -> PlainDict:
    """Settings that separate train from val."""
    if "{split}" in images:
        by_name = {name.lower(): name for name in splits}
        on_disk = {split: next((by_name[name] for name in names if name in by_name), None) for split, names in SPLIT_NAMES.items()}
        named = {split: name for split, name in on_disk.items() if name is not None}
        return {"data.splits": named} if len(named) == 2 and any(split != name for split, name in named.items()) else {}
    for folder, names in tree.items():
        if {"train.txt", "val.txt"} <= set(names):
            return {"data.lists": f"{'' if folder == '.' else folder + '/'}{{split}}.txt"}
    return {"data.val_ratio": 0.2}
