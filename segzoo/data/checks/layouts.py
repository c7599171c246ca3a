"""Description of the files below a folder.

Messages about files that were not found use it: they say what lies there instead.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from segzoo.data.checks.settings_for import settings_for
from segzoo.data.guess.class_lists import read_colored_classes
from segzoo.io import check_regular
from segzoo.messages import format_override, printable

MAX_FOLDERS = 10  # in a message
MAX_FILES = 20_000  # to look at
YOLO_LINE = re.compile(rb"\s*\d+(\s+[\d.eE+-]+){4,}\s*(\n|$)")
Tree = dict[str, list[str]]  # folder relative to the root -> names of its files


def describe_tree(root: Path, tried: tuple[str, str] | None = None) -> str:
    """Describe the files below a folder, and settings that fit them.

    Args:
        root: the folder. The result is empty if it is empty or cannot be listed.
        tried: patterns of images and labels that found nothing, and are not suggested again.
    """
    tree = list_tree(root)
    if not tree:
        return ""
    shown = [_describe_folder(folder, names) for folder, names in list(tree.items())[:MAX_FOLDERS]]
    more = f"; and {len(tree) - MAX_FOLDERS} more folders" if len(tree) > MAX_FOLDERS else ""
    parts = [f"In {printable(str(root))} there are {'; '.join(shown)}{more}."]
    parts += [advice] if (advice := recognize(root, tree)) else []
    settings = settings_for(tree)
    if settings and tried != (settings["data.images"], settings["data.labels"]):
        parts.append("These settings may fit: " + " ".join(format_override(key, value) for key, value in settings.items()))
    return " ".join(parts)


def list_tree(root: Path) -> Tree:
    """Names of visible files by folder, up to a limit of files."""
    tree, count = {}, 0
    for folder, names in walk_visible(root):
        if names:
            tree[folder] = names
        count += len(names)
        if count > MAX_FILES:
            break
    return tree


def walk_visible(top: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield the folders below ``top`` with the names of their files, sorted.

    Links are followed but not in a loop. Hidden files and folders are skipped.

    Args:
        top: the folder, which is yielded first, as ``.``.
        on_error: called with the error of a folder that cannot be listed.
    """
    visited = {os.path.realpath(top)}
    for folder, subfolders, names in os.walk(top, onerror=on_error, followlinks=True):
        kept = []
        for name in sorted(subfolders):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in visited:
                visited.add(real)
                kept.append(name)
        subfolders[:] = kept
        yield os.path.relpath(folder, top), sorted(name for name in names if not name.startswith("."))


def recognize(root: Path, tree: Tree) -> str:
    """Name the annotation tool of a tree, and its way to masks."""
    for folder, names in tree.items():
        for name in _samples(names):
            head, path = _head(root / folder / name), printable(os.path.normpath(root / folder / name))
            if (
                name.endswith(".json")
                and b'"shapes"' not in head
                and re.search(rb'"(licenses|categories|annotations|images)"\s*:', head)
            ):
                return f"{path} is a COCO file. {_convert('coco', path)}"
            if name.endswith(".txt") and YOLO_LINE.match(head):
                return f"{path} is a YOLO file. {_convert('yolo', printable(str(root)))}"
            if name.endswith(".xml") and b"<annotations>" in head:
                return f"{path} is an XML export of CVAT. {_convert('cvat', path)}"
            if name == "meta.json" and any(own.split("/")[-1] == "ann" for own in tree):
                return f"This is a Supervisely project. {_convert('supervisely', printable(os.path.dirname(path)))}"
            if name == "labelmap.txt" and (palette := read_colored_classes(root / folder / name)):
                settings = {"data.masks": "color", "data.classes": list(palette), "data.palette": list(palette.values())}
                return (
                    f"{folder}/{name} lists classes and colors: "
                    + " ".join(format_override(k, v) for k, v in settings.items())
                    + "."
                )
    folders = {path.split("/")[-1] for path in tree}
    if {"JPEGImages", "SegmentationClass"} <= folders:
        return "This looks like Pascal VOC: for its 20 classes, use data=voc and set data.root to the folder that holds JPEGImages."
    if "Annotations" in folders and "JPEGImages" in folders:
        return "This looks like Pascal VOC with boxes only: a segmentation needs masks, in VOC the folder SegmentationClass."
    return ""


def _convert(form: str, source: str) -> str:
    return f"Convert it: python tools/dataset.py action=convert action.format={form} {format_override('action.source', source)}"


def _describe_folder(folder: str, names: list[str]) -> str:
    extensions = Counter(os.path.splitext(name)[1].lower() or "no extension" for name in names)
    counts = ", ".join(f"{count} {extension}" for extension, count in extensions.most_common(3))
    first = ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")
    return printable(f"{counts}: {first}" if folder == "." else f"{folder}/ ({counts}: {first})")


def _samples(names: list[str]) -> list[str]:
    """First file of each extension, and files with telltale names."""
    first = {os.path.splitext(name)[1]: name for name in reversed(names)}
    return [name for name in names if name in ("meta.json", "labelmap.txt")] + list(first.values())


def _head(path: Path) -> bytes:
    if path.suffix not in (".json", ".txt", ".xml"):
        return b""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return file.read(4096)
    except OSError:
        return b""
