"""Filters of a leaderboard: values by name, with wildcards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from segzoo.messages import Example, unknown_name_error
from segzoo.registry import ConfigError

Pattern = str | int | tuple[str | int, ...] | None
Where = Annotated[dict[str, Pattern], Example({"model": ["icnet", "pspnet"], "protocol": "whole"})]
Times = Annotated[dict[str, Pattern], Example({"runtime": "openvino", "size": "480x640"})]


def check_names(setting: str, wanted: Mapping[str, Pattern], known: Collection[str]) -> None:
    """Raise ConfigError for a name that a filter does not have."""
    if errors := [unknown_name_error(f"name in {setting}", name, known) for name in wanted if name not in known]:
        raise ConfigError(errors)


def matches(wanted: Mapping[str, Pattern], values: Mapping[str, Sequence[object]]) -> bool:
    """True if every wanted name has one of its patterns.

    Args:
        wanted: a pattern by name, or several of which one is enough. ``*`` is any text, and None anything.
        values: accepted spellings of the values of one row, by name. Patterns of other names are not applied.
    """
    for name, pattern in wanted.items():
        if pattern is None or name not in values:
            continue
        patterns = pattern if isinstance(pattern, list | tuple) else (pattern,)
        texts = [str(value) for value in values[name] if value is not None]
        if not any(fnmatchcase(text, str(one)) for text in texts for one in patterns):
            return False
    return True
