"""Patterns that name the group of an image, checked without numpy."""

from __future__ import annotations

import re

from segzoo.messages import format_override

EXAMPLE = r"^(.*)_\d+$"


def group_pattern_error(key: str, pattern: str) -> str | None:
    """Describe why a pattern cannot name groups, else None.

    Args:
        key: the setting, such as ``data.group_by``.
        pattern: its value.
    """
    hint = f"Example, with its quotes: {format_override(key, EXAMPLE)} groups 'part7_1' with 'part7_2'."
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        return f"{key}={pattern!r}: is not a regular expression ({error}). {hint}"
    if not groups:
        return f"{key}={pattern!r}: has no part in parentheses, which names the group. {hint}"
    return None
