"""Guess of the settings that fit the files below a folder."""

from __future__ import annotations

import os
import re
from collections import Counter

from segzoo.types import PlainDict

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}
LABEL_FOLDER = re.compile(r"mask|label|annot|(^|[/_])(gt|ann|seg)|segmentationclass", re.IGNORECASE)
IMAGE = re.compile(r"\.(?i:png|jpe?g|bmp|tiff?|webp|p[pgn]m)$")
LABEL = re.compile(r"\.(?i:png|bmp|tiff?|gif|json)$")
SAMPLE = 50  # label files of a folder that are matched with images


def settings_for(tree: dict[str, list[str]]) -> PlainDict:
    """Guess settings that match images with labels.

    Args:
        tree: folder relative to the root -> names of its files.

    Returns:
        Setting of the data set ``folder`` or ``labelme`` -> value, empty if nothing matches.
    """
    groups: dict[str, dict[str, list[str]]] = {}  # folder with {split} -> name of the split on disk -> files
    for folder, names in tree.items():
        pattern, split = _split_of(folder)
        groups.setdefault(pattern, {})[split] = names
    best: tuple[int, PlainDict] = (0, {})
    for images in groups:
        for labels in groups:
            for split in groups[images].keys() & groups[labels].keys():
                matched, patterns = _match(images, groups[images][split], labels, groups[labels][split])
                if matched > best[0]:
                    best = matched, patterns | _separation(images, list(groups[images]), tree)
    return best[1]


def _split_of(folder: str) -> tuple[str, str]:
    """Replace the name of a split in a path.

    ``images/train`` becomes ``images/{split}`` and ``train``.
    """
    for name in (name for names in SPLIT_NAMES.values() for name in names):
        found = re.search(rf"(?<![A-Za-z]){name}(?![A-Za-z])|(?<![A-Za-z]){name}(?=annot|mask|label|gt)", folder, re.IGNORECASE)
        if found:
            return folder[: found.start()] + "{split}" + folder[found.end() :], found[0]
    return folder, ""


def _match(images: str, image_names: list[str], labels: str, label_names: list[str]) -> tuple[int, PlainDict]:
    """Match label files with images by their stems.

    Returns:
        A score, above 0 if at least half of the labels match, and the settings.
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
        return 0, {}
    (suffix, extension, image_extension), count = found.most_common(1)[0]
    is_label = bool(LABEL_FOLDER.search(labels) or suffix) or extension == ".json" or image_extension.lower() in (".jpg", ".jpeg")
    if 2 * count < len(sample) or not is_label or (LABEL_FOLDER.search(images) and images != labels):
        return 0, {}
    ending = image_extension if images == labels else ".*"
    start_of = {path: "" if path == "." else f"{path}/" for path in (images, labels)}
    patterns = {
        "data": "labelme" if extension == ".json" else "folder",
        "data.images": f"{start_of[images]}{{stem}}{ending}",
        "data.labels": f"{start_of[labels]}{{stem}}{suffix}{extension}",
    }
    return count, patterns


def _separation(images: str, splits: list[str], tree: dict[str, list[str]]) -> PlainDict:
    """Settings that separate train from val."""
    if "{split}" in images:
        on_disk = {split: next((name for name in splits if name.lower() in names), None) for split, names in SPLIT_NAMES.items()}
        named = {split: name for split, name in on_disk.items() if name is not None}
        return {"data.splits": named} if len(named) == 2 and any(split != name for split, name in named.items()) else {}
    for folder, names in tree.items():
        if {"train.txt", "val.txt"} <= set(names):
            return {"data.lists": f"{'' if folder == '.' else folder + '/'}{{split}}.txt"}
    return {"data.val_ratio": 0.2}
