"""mIoU of the compared networks against their latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from benchmarks.figures.drawing import Figure, Kind
from segzoo.workflows.leaderboard.front import pareto_front

WIDTH, HEIGHT = 880, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 850, 60, 350  # edges of the plot, in pixels
LETTER = 7  # largest width of a letter of a name, in pixels
LEGEND: dict[Kind, str] = {"conv": "ResNet-50 at half width", "context": "VGG16"}


class Axes(NamedTuple):
    """Range of the plot.

    Attributes:
        fastest, slowest: in milliseconds, on a logarithmic axis.
        lowest, highest: in percent.
    """

    fastest: float
    slowest: float
    lowest: float
    highest: float

    def x(self, milliseconds: float) -> float:
        """Return the horizontal position of a latency."""
        share = math.log(milliseconds / self.fastest) / math.log(self.slowest / self.fastest)
        return round(LEFT + share * (RIGHT - LEFT), 1)

    def y(self, miou: float) -> float:
        """Return the vertical position of an mIoU in percent."""
        return round(BOTTOM - (miou - self.lowest) / (self.highest - self.lowest) * (BOTTOM - TOP), 1)


class Box(NamedTuple):
    """A rectangle in pixels, whose y axis points downward."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """True if the two share an area."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


def accuracy_latency(rows: Sequence[dict[str, Any]]) -> str:
    """Draw mIoU against latency, with intervals and the Pareto front.

    Args:
        rows: ``name``, ``is_vgg``, ``miou`` and ``miou_interval`` from 0 to 1, and ``ms``.
    """
    figure = Figure("mIoU against latency: the line is the Pareto front", WIDTH, HEIGHT, LEGEND)
    bounds = [100 * bound for row in rows for bound in row["miou_interval"]]
    axes = Axes(
        0.8 * min(row["ms"] for row in rows),
        1.3 * max(row["ms"] for row in rows),
        5 * math.floor(min(bounds) / 5),
        5 * math.ceil(max(bounds) / 5),
    )
    _draw_axes(figure, axes)
    dots = [(axes.x(row["ms"]), axes.y(100 * row["miou"])) for row in rows]
    front = [dots[index] for index in pareto_front([(row["ms"], row["miou"]) for row in rows])]
    figure.line(*front, style="line dashed")
    bars = [[axes.y(100 * bound) for bound in row["miou_interval"]] for row in rows]
    for (x, y), (low, high), row in zip(dots, bars, rows, strict=True):
        figure.line((x, low), (x, high))
        figure.dot(x, y, "context" if row["is_vgg"] else "conv")
    taken = [Box(x - 5, high, x + 5, low) for (x, _), (low, high) in zip(dots, bars, strict=True)] + _boxes_along(front)
    for (x, y), row in zip(dots, rows, strict=True):
        placed = _place_name(x, y, len(row["name"]), taken)
        taken.append(placed)
        figure.text(placed.left, placed.bottom - 3, row["name"], "name", "start")
    return figure.svg()


def _boxes_along(points: Sequence[tuple[float, float]]) -> list[Box]:
    """Cover a line by boxes of a few pixels."""
    boxes: list[Box] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        width, height = (x1 - x0) / 100, (y1 - y0) / 100
        boxes += [Box(x0 + i * width, y0 + i * height - 2, x0 + (i + 1) * width, y0 + i * height + 2) for i in range(100)]
    return boxes


def _place_name(x: float, y: float, letters: int, taken: Sequence[Box]) -> Box:
    """Find the place next to a dot that covers least."""
    width = LETTER * letters
    places = [Box(left, y + top, left + width, y + top + 15) for top in (4, -7, -19) for left in (x + 9, x - 9 - width)]
    inside = [place for place in places if place.right < RIGHT + 20 and place.left > LEFT]
    return min(inside, key=lambda place: sum(map(place.overlaps, taken)))


def _draw_axes(figure: Figure, axes: Axes) -> None:
    for miou in range(int(axes.lowest), int(axes.highest) + 1, 5):
        figure.line((LEFT, axes.y(miou)), (RIGHT, axes.y(miou)), style="tick")
        figure.text(LEFT - 8, axes.y(miou) + 4, f"{miou} %", anchor="end")
    for milliseconds in _ticks(axes.fastest, axes.slowest):
        figure.line((axes.x(milliseconds), BOTTOM), (axes.x(milliseconds), BOTTOM + 5), style="tick")
        figure.text(axes.x(milliseconds), BOTTOM + 19, f"{milliseconds:g}")
    figure.text((LEFT + RIGHT) / 2, BOTTOM + 38, "ms per image of 480x360, logarithmic")


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10**decade for decade in decades for digit in (1, 2, 5) if low <= digit * 10**decade <= high]
