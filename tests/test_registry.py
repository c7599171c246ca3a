"""Registries: settings read from signatures, and errors for invalid configurations."""

from __future__ import annotations

import pickle
from typing import Annotated, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segzoo.config.commands import COMMANDS
from segzoo.config.sections import SECTIONS
from segzoo.registry import ConfigError, Range, Registry, coerce, describe_type, settings_of, type_error


def widget(
    backbone,
    *,
    rate: Annotated[float, Range(0, 1)] = 0.5,
    mode: Literal["whole", "slide"] = "whole",
    bins: tuple[int, ...] = (1, 2),
    crop: tuple[int, int] | None = None,
    mapping: dict[int, int] | None = None,
    required: int,
):
    return {
        "backbone": backbone,
        "rate": rate,
        "mode": mode,
        "bins": bins,
        "crop": crop,
        "mapping": mapping,
        "required": required,
    }


@pytest.fixture
def widgets() -> Registry:
    registry = Registry("widget", "json")  # any module without builders
    registry.register(widget)
    return registry


def test_settings_are_the_keyword_only_parameters():
    assert list(settings_of(widget)) == ["rate", "mode", "bins", "crop", "mapping", "required"]


def test_var_keyword_settings_are_rejected():
    with pytest.raises(TypeError, match="kwargs"):
        settings_of(lambda **anything: None)


def test_values_are_coerced_to_the_annotated_types(widgets):
    built = widgets.build("widget", "object", rate=1, bins=[1, 3], crop=[4, 5], required=2)
    assert built["rate"] == 1.0 and isinstance(built["rate"], float)
    assert built["bins"] == (1, 3) and built["crop"] == (4, 5)


def test_every_error_is_reported_at_once(widgets):
    with pytest.raises(ConfigError) as error:
        widgets.build("widget", None, rte=0.1, rate=2, mode="slid", bins=["a"], crop=[1])
    text = str(error.value)
    for part in (
        "rte",
        "Did you mean 'rate'?",
        "0 to 1",
        "whole, slide",
        "Did you mean 'slide'?",
        "list of 2",
        "required is missing",
    ):
        assert part in text
    assert len(error.value.errors) == 6


def test_an_unknown_name_suggests_the_closest_and_lists_the_valid_ones(widgets):
    with pytest.raises(ConfigError, match="unknown widget 'widgett'. Did you mean 'widget'.*Valid: widget"):
        widgets.get("widgett")


def test_a_name_cannot_be_registered_twice(widgets):
    def other(): ...

    other.__name__ = "widget"
    with pytest.raises(ValueError, match="registered twice"):
        widgets.register(other)


@pytest.mark.parametrize(
    ("value", "annotation", "valid"),
    [
        (3, float, True),
        (True, int, False),
        (True, float, False),
        ("3", int, False),
        (float("nan"), float, False),
        (float("inf"), Annotated[float, Range(0, 1e9)], False),
        (0, Annotated[float, Range(0, 1, above=True)], False),
        (None, int | None, True),
        ([1, 2], tuple[int, int], True),
        ([1, 2, 3], tuple[int, int], False),
        ({1: 2}, dict[int, int], True),
        ({"a": 2}, dict[int, int], False),
        ("whole", Literal["whole"], True),
        (1, bool, False),
    ],
)
def test_types_and_ranges(value, annotation, valid):
    assert (type_error(value, annotation) is None) == valid
    assert describe_type(annotation)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Annotated[tuple[int, int], Range(1, 16384)] | None, "a list of 2 integers, 1 to 16,384, or null"),  # type: ignore[operator]
        (tuple[str, ...], "a list of strings"),
        (tuple[tuple[int, int, int], ...] | None, "a list of lists of 3 integers or null"),
        (tuple[int | str, ...], "a list of values, each an integer or a string"),
        (tuple[Literal["c1", "c2"], ...], "a list of values, each one of c1, c2"),
        (tuple[int, str], "a list of 2: an integer; a string"),
        (tuple[float, ...] | Literal["auto"], "a list of numbers or auto"),
    ],
)
def test_types_of_lists_are_described_in_plain_words(annotation, text):
    assert describe_type(annotation) == text


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(-10, 0), st.floats(0, 10))
def test_range_matches_comparison_operators(value, low, high):
    assert (value in Range(low, high)) == (low <= value <= high)


@given(st.lists(st.integers()))
def test_coerce_keeps_values(values):
    assert coerce(values, tuple[int, ...]) == tuple(values)
    assert coerce(values, tuple[float, ...]) == tuple(float(value) for value in values)


def test_config_error_can_be_pickled():
    error = ConfigError(["one", "two"])
    assert pickle.loads(pickle.dumps(error)).errors == ["one", "two"]


def number_types(annotation, bounded=False):
    """Numeric types of an annotation, with true for those inside a Range."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return number_types(args[0], bounded or any(isinstance(extra, Range) for extra in args[1:]))
    if origin is Literal or annotation is bool:
        return []
    if str in args:  # names, some of which are integers
        return []
    if annotation in (int, float):
        return [(annotation, bounded)]
    return [found for arg in args for found in number_types(arg, bounded)]


def all_settings():
    for section, registry in SECTIONS.items():
        for name in registry.names():
            yield from ((f"{section}.{name}.{key}", setting) for key, setting in registry.settings(name).items())
    for command, entry in COMMANDS.items():
        yield from ((f"{command}.{key}", setting) for key, setting in entry.settings().items())


def test_every_number_among_the_settings_has_bounds():
    unbounded = [where for where, setting in all_settings() if not all(bounded for _, bounded in number_types(setting.type))]
    assert unbounded == []
    assert number_types(tuple[float, ...] | None) == [(float, False)] and number_types(Annotated[int, Range(0, 1)]) == [(int, True)]
