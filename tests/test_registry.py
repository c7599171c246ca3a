"""The registry: what it reads off a signature and what it says of a wrong configuration."""

from __future__ import annotations

import pickle
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzoo.registry import ConfigError, Range, Registry, coerce, describe_type, settings_of, type_error


def thing(
    first,
    *,
    rate: Annotated[float, Range(0, 1)] = 0.5,
    mode: Literal["whole", "slide"] = "whole",
    bins: tuple[int, ...] = (1, 2),
    crop: tuple[int, int] | None = None,
    table: dict[int, int] | None = None,
    needed: int,
):
    return {"first": first, "rate": rate, "mode": mode, "bins": bins, "crop": crop, "table": table, "needed": needed}


@pytest.fixture
def things() -> Registry:
    registry = Registry("thing", "json")  # any module without builders
    registry.register(thing)
    return registry


def test_settings_are_the_keyword_only_parameters():
    assert list(settings_of(thing)) == ["rate", "mode", "bins", "crop", "table", "needed"]


def test_catch_all_settings_are_refused():
    with pytest.raises(TypeError, match="kwargs"):
        settings_of(lambda **anything: None)


def test_builds_with_containers_as_typed(things):
    built = things.build("thing", "object", rate=1, bins=[1, 3], crop=[4, 5], needed=2)
    assert built["rate"] == 1.0 and isinstance(built["rate"], float)
    assert built["bins"] == (1, 3) and built["crop"] == (4, 5)


def test_reports_every_fault_at_once(things):
    with pytest.raises(ConfigError) as error:
        things.build("thing", None, rte=0.1, rate=2, mode="slid", bins=["a"], crop=[1])
    text = str(error.value)
    for remedy in (
        "rte",
        "Did you mean 'rate'?",
        "0 to 1",
        "whole, slide",
        "Did you mean 'slide'?",
        "list of 2",
        "needed is missing",
    ):
        assert remedy in text
    assert len(error.value.errors) == 6


def test_unknown_name_shows_the_nearest_and_the_legal_ones(things):
    with pytest.raises(ConfigError, match="Did you mean 'thing'.*Valid: thing"):
        things.get("thingg")


def test_a_taken_name_is_refused(things):
    def other(): ...

    other.__name__ = "thing"
    with pytest.raises(ValueError, match="registered twice"):
        things.register(other)


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        (3, float, True),
        (True, int, False),
        (True, float, False),
        ("3", int, False),
        (float("nan"), float, False),
        (float("inf"), Annotated[float, Range(0, None)], False),
        (0, Annotated[float, Range(0, None, above=True)], False),
        (None, int | None, True),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ({1: 2}, dict[int, int], True),
        ({"a": 2}, dict[int, int], False),
        ("whole", Literal["whole"], True),
        (1, bool, False),
    ],
)
def test_types_and_ranges(value, wanted, fits):
    assert (type_error(value, wanted) is None) == fits
    assert describe_type(wanted)


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 0), st.floats(0, 10))
def test_range_agrees_with_comparison(value, low, high):
    assert (value in Range(low, high)) == (low <= value <= high)


@given(st.lists(st.integers()))
def test_shape_keeps_values(values):
    assert coerce(values, tuple[int, ...]) == tuple(values)
    assert coerce(values, tuple[float, ...]) == tuple(float(value) for value in values)


def test_the_error_survives_pickling():
    error = ConfigError(["one", "two"])
    assert pickle.loads(pickle.dumps(error)).errors == ["one", "two"]
