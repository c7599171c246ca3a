"""mIoU of the compared networks against their latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.figures.drawing import Figure, Kind
from segzoo.workflows.leaderboard.front import pareto_front

WIDTH, HEIGHT = 880, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 850, 60, 350  # edges of the plot, in pixels
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
    front = [rows[index] for index in pareto_front([(row["ms"], row["miou"]) for row in rows])]
    figure.line(*((axes.x(row["ms"]), axes.y(100 * row["miou"])) for row in front), style="line dashed")
    for row in rows:
        x, y = axes.x(row["ms"]), axes.y(100 * row["miou"])
        low, high = (axes.y(100 * bound) for bound in row["miou_interval"])
        figure.line((x, low), (x, high))
        figure.dot(x, y, "context" if row["is_vgg"] else "conv")
        is_right = x > (LEFT + 3 * RIGHT) / 4
        below = -10 if row["is_vgg"] else 16  # so that the names of the two backbones do not overlap
        figure.text(x + (-9 if is_right else 9), y + below, row["name"], "name", "end" if is_right else "start")
    return figure.svg()


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
