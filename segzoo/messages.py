"""Hints and overrides for error messages."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args, get_origin

SYNONYMS = {"gpu": "cuda"}  # what is typed for a choice of another name


class Example:
    """Valid value of a setting, which its errors show."""

    def __init__(self, value: object):
        self.value = value


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Suggest the closest choice.

    Returns:
        `` Did you mean <choice>?``, or an empty string if none is close.
    """
    choices = list(choices)
    synonym = SYNONYMS.get(str(name).lower())
    close = [synonym] if synonym in choices else get_close_matches(str(name), choices, n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name_error(kind: str, name: str, choices: Iterable[str]) -> str:
    """Error line for an unknown name, with suggestion and valid names."""
    choices = list(choices)
    valid = ", ".join(choices) if choices else "none"
    return f"unknown {kind} {name!r}.{did_you_mean(name, choices)} Valid: {valid}."


def format_override(key: str, value: object) -> str:
    r"""Quote an override for the shell and for Hydra's grammar.

    Use it wherever a message tells the user what to type: ``format_override("data.label_map", {0: 0, 255: 1})`` is
    ``'data.label_map={0:0,255:1}'``, with the quotes.

    Args:
        key: the dotted name of the setting.
        value: a string, number, boolean, None, or lists and mappings of these. Hydra's grammar has no quoted keys: those of a mapping
            may hold ASCII letters, digits, blanks and ``/-\+.$%*@?|()[]{}:=,``.
    """
    return shlex.quote(f"{key}={_format_value(value)}")


def _format_value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_format_key(key)}:{_format_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_format_value(item) for item in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII) and not _is_other_type(text):
        return text
    # a backslash counts as one only before a quote, where it has to be doubled
    escaped = re.sub(r'(\\*)("|\Z)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), text)
    return f'"{escaped}"'


def _format_key(key: object) -> str:
    if not isinstance(key, str):
        return _format_value(key)
    return re.sub(r"^\s|\s$|[\\()\[\]{}:=,]", lambda match: "\\" + match[0], key)


def _is_other_type(text: str) -> bool:
    """Detect text that Hydra reads as a number, boolean or null."""
    try:
        float(text)
    except ValueError:
        return text.lower() in ("null", "true", "false")
    return True


def show_example(key: str, annotation: object) -> str:
    """Override that sets the example of an annotation, empty without one."""
    for arg in get_args(annotation):
        is_example = isinstance(arg, Example)
        if found := f" Example, with its quotes: {format_override(key, arg.value)}." if is_example else show_example(key, arg):
            return found
    return ""


def nearest_literal(value: object, annotation: object) -> str:
    """Suggest the choice of an annotation that is closest to a value."""
    args = get_args(annotation)
    options = [a for arg in args for a in (get_args(arg) if get_origin(arg) is Literal else [arg])]
    return did_you_mean(str(value), [str(option) for option in options if isinstance(option, str)])


def printable(path: str | Path) -> str:
    """Printable form of a path that may not be valid UTF-8."""
    if (text := str(os.fspath(path))).isascii():  # of nearly all paths, in a hundredth of the time
        return text
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def relative_to(path: str | Path) -> str:
    """Name the directory that a relative path starts from.

    The text begins with a blank. It is empty for an absolute path.
    """
    return "" if os.path.isabs(os.path.expanduser(path)) else f" (relative to {os.path.basename(os.getcwd())}/)"
