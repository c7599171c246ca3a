"""Overrides in messages survive the shell and Hydra's grammar."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.config.checks.prediction import source_errors
from segzoo.inference.threshold import Thresholds
from segzoo.messages import format_override, relative_to
from segzoo.registry import Setting, setting_errors

KEYS = st.integers() | st.text("ab1 []{}()=:,\\-/.", min_size=1).filter(lambda text: not _is_number(text))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda item: st.lists(item, max_size=3) | st.dictionaries(KEYS, item, max_size=3), max_leaves=6)


def _is_number(text: str) -> bool:
    """Return true for a key that Hydra reads as a number.

    Only quotes, which keys cannot have, would keep it text.
    """
    try:
        float(text.strip())
    except ValueError:
        return False
    return True


def read_back(text: str) -> object:
    """Value of an override after a shell and Hydra have read it."""
    words = shlex.split(text)
    assert len(words) == 1
    return OverridesParser.create().parse_override(words[0]).value()


@pytest.mark.integration
@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_overrides_survive_the_shell_and_hydra(value):
    assert read_back(format_override("data.x", value)) == value


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("data.label_map", {0: 0, 255: 1}, "'data.label_map={0:0,255:1}'"),
        ("ckpt", "r/lr=0.01", "'ckpt=\"r/lr=0.01\"'"),
        ("out", "runs/a-1", "out=runs/a-1"),
        ("data.classes", ["bg", "1", "crack wide"], '\'data.classes=[bg,"1","crack wide"]\''),
        ("data.root", "~/x", "'data.root=\"~/x\"'"),
        ("resume", None, "resume=null"),
        ("source", 'a"b\\', '\'source="a\\"b\\\\"\''),
    ],
)
def test_overrides_are_quoted_only_where_needed(key, value, text):
    assert format_override(key, value) == text
    assert read_back(text) == value


def test_an_absolute_path_is_not_called_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_to("runs/a") == f" (relative to {tmp_path.name}/)"
    assert relative_to(tmp_path) == relative_to("~/runs") == ""
    assert source_errors(str(tmp_path / "a")) == [f"source={tmp_path / 'a'} is not a file or folder and matches no image."]


def test_a_probability_without_a_class_gets_an_example():
    setting = {"threshold": Setting("threshold", Thresholds | None, None)}
    (error,) = setting_errors(setting, {"threshold": 0.3}, "", "predict")
    assert error.endswith("Example, with its quotes: 'threshold={scratch:0.3}'.")
