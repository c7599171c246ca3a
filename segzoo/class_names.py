"""Rules for the names and colors of classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from segzoo.messages import format_override

MAX_CLASS_NAME = 100  # characters
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # reorder the text around them
MIN_SIMILARITY = 0.85  # ratio of difflib from which a rare name may be a misspelling
MIN_FACTOR = 10  # how much more frequent the other name must be
BACKGROUND_NAMES = ("background", "bg", "hintergrund", "背景", "배경")

VOC_CLASSES = tuple(
    [
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ]
)
CITYSCAPES_LABEL_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def background_id(classes: Sequence[str]) -> int | None:
    """Train id of the background class, if there is one.

    It is the first class if its name is one of ``BACKGROUND_NAMES``. Case, spaces and underscores do not matter, as in ``_background_``.
    """
    return 0 if re.sub(r"[\W_]", "", classes[0]).casefold() in BACKGROUND_NAMES else None


def background_order_errors(classes: Sequence[str], key: str) -> list[str]:
    """Errors if a later class is the background of annotations with shapes.

    Args:
        classes: class names in the order of their train ids.
        key: the setting that has them, for the message.
    """
    later = [number for number, name in enumerate(classes) if background_id((name,)) == 0]
    if not later or later[0] == 0:
        return []
    name = classes[later[0]]
    override = format_override(key, [name, *(other for other in classes if other != name)])
    return [
        f"{key}: {name} is class {later[0]}, but pixels outside of all shapes belong to the first class, here {classes[0]}. Set {override}"
    ]


def first_class_note(subject: str, classes: Sequence[str], key: str) -> str:
    """Note on shapes of a first class that is no background.

    Args:
        subject: the shapes with their verb, such as ``2 shapes are``.
        classes: class names in the order of their train ids.
        key: the setting that has them.
    """
    return (
        f"{subject} labeled {classes[0]!r}, the first class, to which all pixels outside of shapes belong. If these are background: "
        f"{format_override(key, ['background', *classes])}"
    )


def likely_misspellings(counts: Mapping[str, int]) -> dict[str, str]:
    """Find rare labels that resemble a frequent one.

    Labels that differ in digits alone, such as ``class_1`` and ``class_2``, do not count as alike.

    Args:
        counts: label -> number of annotations.

    Returns:
        Rare label -> the frequent one.
    """
    found = {}
    for label in sorted(counts):
        frequent = [
            other
            for other, count in counts.items()
            if count >= MIN_FACTOR * counts[label] > 0
            and re.sub(r"\d", "", other) != re.sub(r"\d", "", label)
            and SequenceMatcher(None, label, other).ratio() >= MIN_SIMILARITY
        ]
        if frequent:
            found[label] = max(frequent, key=lambda other: (counts[other], other))
    return found


def class_name_errors(classes: tuple[str, ...]) -> list[str]:
    """Errors in class names that no table could show."""
    problems = [_class_name_problem(name) for name in classes]
    return [f"the name of class {index} {problem}. Rename it." for index, problem in enumerate(problems) if problem]


def repeated_names(classes: Sequence[str]) -> list[str]:
    """Names that more than one class has."""
    return sorted({name for name in classes if classes.count(name) > 1})


def class_table_errors(classes: tuple[str, ...], palette: Sequence[Sequence[int]]) -> list[str]:
    """Errors in the names and colors of classes."""
    errors = class_name_errors(classes)
    if not errors and (repeated := repeated_names(classes)):
        errors.append(f"classes names {', '.join(repeated)} more than once; class names must be unique.")
    if len(palette) != len(classes):
        errors.append(f"palette holds {len(palette)} colors for {len(classes)} classes, expected one per class.")
    if wrong := [color for color in palette if len(color) != 3 or not all(0 <= value <= 255 for value in color)]:
        errors.append(f"palette holds {wrong[0]}, expected red, green and blue from 0 to 255.")
    return errors


def _class_name_problem(name: object) -> str | None:
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, expected text"
    if not name.strip():
        return "is empty"
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in BIDI_CONTROLS for char in name):
        return f"({name[:40]!a}) contains control characters, expected printable text on one line"
    return f"has {len(name)} characters, expected at most {MAX_CLASS_NAME}" if len(name) > MAX_CLASS_NAME else None
