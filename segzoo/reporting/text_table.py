"""Aligned tables for terminals and log files."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

MIN_NAME = 8  # columns to which the first column may be shortened


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its head.
        cells: its text, row by row.
        rank: the columns of the highest rank are left out first if a table is too wide. Those of rank 0 stay.
    """

    title: str
    cells: Sequence[str]
    rank: int = 0


def terminal_width() -> int | None:
    """Width of the terminal, None if output is redirected."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def text_table(columns: Sequence[Column], width: int | None = None) -> list[str]:
    """Align the first column to the left, others to the right.

    Args:
        columns: at least one, of equal lengths.
        width: columns of the terminal. Columns that do not fit are left out, then the text of the first one is shortened.
            None shows everything.

    Returns:
        The lines, the titles first.
    """
    shown = list(columns)
    while width is not None and _total(shown) > width and (last := max(shown, key=lambda column: column.rank)).rank:
        shown.remove(last)
    first, *others = shown
    if width is not None and (excess := _total(shown) - width) > 0:
        limit = max(MIN_NAME, _width(first) - excess)
        first = Column(first.title, [shorten(cell, limit) for cell in first.cells])
    widths = [_width(column) for column in others]
    lines = []
    for row in zip(*([column.title, *column.cells] for column in (first, *others)), strict=True):
        padded = [" " * (size - display_width(cell)) + cell for cell, size in zip(row[1:], widths, strict=True)]
        lines.append("  ".join([row[0] + " " * (_width(first) - display_width(row[0])), *padded]).rstrip())
    return lines


def shorten(text: str, width: int) -> str:
    """Cut text to a width, with an ellipsis."""
    if display_width(text) <= width:
        return text
    while text and display_width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def display_width(text: str) -> int:
    """Width of text in a terminal, where some characters are wide."""
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _width(column: Column) -> int:
    return max(display_width(text) for text in (column.title, *column.cells))


def _total(columns: Sequence[Column]) -> int:
    return sum(_width(column) for column in columns) + 2 * (len(columns) - 1)
