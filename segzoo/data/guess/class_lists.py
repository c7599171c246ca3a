"""Lists of class names and colors in a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from segzoo.data.checks.label_survey import Color
from segzoo.io import check_regular

CVAT = re.compile(r"^([^#:\n]+):(\d+),(\d+),(\d+):", re.MULTILINE)  # name:r,g,b:parts:actions
CSV = re.compile(r"^([^,\n]+),\s*(\d+),\s*(\d+),\s*(\d+)\s*$", re.MULTILINE)  # name,r,g,b
CAMVID = re.compile(r"^(\d+)\s+(\d+)\s+(\d+)\s+(\S.*?)\s*$", re.MULTILINE)  # r g b name
COLORED = {"labelmap.txt": CVAT, "class_dict.csv": CSV, "label_colors.txt": CAMVID}
NAMES = ("classes.txt", "class_names.txt", "labels.txt", "names.txt")
MAX_BYTES = 1 << 16


class ClassList(NamedTuple):
    """Class names found in a file.

    Attributes:
        path: the file.
        names: class names in its order.
        palette: their colors, empty if the file has none.
    """

    path: Path
    names: tuple[str, ...]
    palette: tuple[Color, ...] = ()


def find_class_list(root: Path, tree: Mapping[str, list[str]]) -> ClassList | None:
    """Find a list of classes among the files of a folder.

    Args:
        root: the folder.
        tree: folder relative to it -> names of its files.
    """
    files = {name.lower(): root / folder / name for folder, names in reversed(list(tree.items())) for name in names}
    for name, path in files.items():
        kind = next((kind for kind in COLORED if name.endswith(kind)), None)
        if kind and (colors := read_colored_classes(path, kind)):
            return ClassList(path, tuple(colors), tuple(colors.values()))
    for name in NAMES:
        if name in files and (lines := [line.strip() for line in _text(files[name]).splitlines() if line.strip()]):
            return ClassList(files[name], tuple(dict.fromkeys(lines)))
    return None


def read_colored_classes(path: Path, kind: str = "labelmap.txt") -> dict[str, Color]:
    """Read class names with colors, empty if the file holds none.

    Args:
        path: the file.
        kind: name of its format, one of ``COLORED``.
    """
    found = COLORED[kind].findall(_text(path))
    pairs = [(name, color) for *color, name in found] if kind == "label_colors.txt" else [(name, color) for name, *color in found]
    return {name.strip(): (int(red), int(green), int(blue)) for name, (red, green, blue) in pairs}


def _text(path: Path) -> str:
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return file.read(MAX_BYTES).decode("utf-8-sig", "replace").replace("\r\n", "\n")
    except OSError:
        return ""
