"""Class names in settings and in checkpoints."""

from __future__ import annotations

import math

import pytest

from segzoo.class_names import MAX_CLASS_NAME
from segzoo.registry import DATA, ConfigError
from segzoo.types import DatasetInfo

PALETTE = ((0, 0, 0), (255, 0, 0))
INVALID_NAMES = {
    "newline": ("a\nb", r"class 1 \('a\\nb'\) contains control characters"),
    "zero": ("a\0", "control characters"),
    "line separator": ("a\u2028b", "control characters"),
    "surrogate": ("a\udc80", r"\('a\\udc80'\) contains control characters"),
    "right to left": ("a\u202eb", "control characters"),
    "empty": ("", "class 1 is empty"),
    "blank": (" \t", "class 1 is empty"),
    "long": ("x" * (MAX_CLASS_NAME + 1), "has 101 characters, expected at most 100"),
}


@pytest.mark.parametrize("case", INVALID_NAMES)
def test_invalid_class_names_are_rejected(case):
    name, expected = INVALID_NAMES[case]
    with pytest.raises(ConfigError, match=f"data.classes: .*{expected}"):
        DATA.build("folder", "train", root="x", classes=("bg", name))
    plain = DatasetInfo("x", ("bg", "a"), PALETTE).to_dict() | {"classes": ["bg", name]}
    with pytest.raises(ValueError, match=expected):
        DatasetInfo.from_dict(plain)  # as read from a checkpoint of someone else


def test_a_class_name_that_is_no_text_is_rejected():
    with pytest.raises(ValueError, match="class 1 is of type int, expected text"):
        DatasetInfo.from_dict(DatasetInfo("x", ("bg", "a"), PALETTE).to_dict() | {"classes": ["bg", 1]})


@pytest.mark.parametrize("name", ["划痕", "traffic light", "a, b|c", "%s{0}", "می‌خواهم", "x" * MAX_CLASS_NAME])
def test_unusual_class_names_are_accepted(name):
    assert DatasetInfo("x", ("bg", name), PALETTE).classes[1] == name


def test_one_class_is_rejected():
    with pytest.raises(ConfigError, match=r"data.classes holds 1 name\(s\), expected at least 2: the background is also a class"):
        DATA.build("folder", "train", root="x", classes=("crack",))


@pytest.mark.parametrize(
    ("data", "key", "value", "expected"),
    [
        ("folder", "label_map", "255:1", r"'data.label_map=\{0:0,255:1\}'"),  # what is left of {0:0,255:1} in bash
        ("folder", "label_map", {"a": 1}, r"'data.label_map=\{0:0,255:1\}'"),
        ("folder", "palette", "red", r"'data.palette=\[\[0,0,0\],\[255,0,0\]\]'"),
        ("labelme", "names", "a:b", r"'data.names=\{scratches:scratch,unclear:ignore\}'"),
    ],
)
def test_errors_of_tables_show_an_example(data, key, value, expected):
    with pytest.raises(ConfigError, match=rf"data.{key}=.*: expected .* Example, with its quotes: {expected}\."):
        DATA.build(data, "train", root="x", classes=("bg", "a"), **{key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"std": (0.0, 1.0, 1.0)}, "data.std=.*: expected numbers above 0"),
        ({"std": (-1.0, 1.0, 1.0)}, "data.std=.*: expected numbers above 0"),
        ({"mean": (math.nan,) * 3}, "data.mean=.*: expected numbers of at least 0"),
        ({"mean": (-1.0, 0.0, 0.0)}, "data.mean=.*: expected numbers of at least 0"),
        ({"classes": ("a", "a")}, "classes names a more than once"),
        ({"palette": ((0, 0, 0),)}, "palette holds 1 colors for 2 classes"),
        ({"palette": ((0, 0, 0), (300, 0, 0))}, r"palette holds \(300, 0, 0\), expected red, green and blue from 0 to 255"),
    ],
)
def test_dataset_info_that_no_image_could_have_is_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        DatasetInfo(**{"name": "x", "classes": ("a", "b"), "palette": ((0, 0, 0), (1, 2, 3)), **changes})
