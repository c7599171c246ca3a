"""Rows of bars with intervals, which pages draw without matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Bar(NamedTuple):
    """A bar on a track, all positions as fractions of its width.

    Attributes:
        start, end: of the bar. They are equal if only the range is drawn.
        low, high: of the range, None without one.
        point: a dot, such as a median, None without one.
        zero: a vertical line that all bars share, None without one.
    """

    start: float = 0.0
    end: float = 0.0
    low: float | None = None
    high: float | None = None
    point: float | None = None
    zero: float | None = None


class BarRow(NamedTuple):
    """A row of a table with bars.

    Attributes:
        label: first cell.
        bar: drawn in the second cell, which is empty if it is None.
        cells: text of the others.
    """

    label: str
    bar: Bar | None
    cells: Sequence[str | None]


def share_bar(value: float | None, interval: Sequence[float] | None = None) -> Bar | None:
    """Draw a fraction from 0 to 1, with its interval."""
    if value is None:
        return None
    low, high = interval or (None, None)
    return Bar(0.0, value, low, high)


def difference_bars(differences: Sequence[tuple[float | None, Sequence[float] | None]]) -> list[Bar | None]:
    """Draw differences and their intervals around a shared zero.

    The largest absolute value reaches an end of the track.
    """
    bounds = [abs(bound) for value, interval in differences for bound in (value or 0, *(interval or ()))]
    scale = 2 * max([*bounds, 1e-9])

    def place(value: float) -> float:
        return 0.5 + value / scale

    bars: list[Bar | None] = []
    for value, interval in differences:
        if value is None:
            bars.append(None)
            continue
        low, high = (place(bound) for bound in interval) if interval else (None, None)
        bars.append(Bar(min(0.5, place(value)), max(0.5, place(value)), low, high, zero=0.5))
    return bars
