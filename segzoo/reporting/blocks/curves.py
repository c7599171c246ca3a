"""Curves of a training, from the rows of ``metrics.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segzoo.reporting.blocks.plots import DATA, SECOND, Plot, svg_plot
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 400  # of a curve; of more, the means of neighbors

Curve = tuple[np.ndarray, np.ndarray]  # steps, values

LOSS = (
    "How far the predictions are from the ground truth, lower is better. If the validation loss rises while the training loss falls, the "
    "network is overfitting."
)
MIOU = "Score of each evaluation during the training, higher is better. If the curve still rises at its end, a longer training may help."
RATE = "Size of the steps in which the weights change, as the schedule sets it."


def read_rows(path: Path) -> list[PlainDict]:
    """Read the rows of ``metrics.jsonl``, none if there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote the last line
            continue
    return rows


def curve(rows: Sequence[PlainMapping], split: str, key: str) -> Curve:
    """Collect the finite values of a split."""
    points = [(row["step"], row[key]) for row in rows if row["split"] == split and row.get(key) is not None]
    steps, values = np.array(points, float).reshape(-1, 2).T
    return steps, values


def training_plots(rows: Sequence[PlainMapping], best_step: int | None = None) -> list[Plot]:
    """Plot loss, mIoU and learning rate, those that were logged.

    Args:
        rows: of ``metrics.jsonl``.
        best_step: step of the best checkpoint, which is marked.
    """
    losses = {"training": curve(rows, "train", "loss"), "validation": curve(rows, "val", "loss")}
    score = curve(rows, "val", "mIoU")
    rates = {key: curve(rows, "train", key) for row in rows for key in row if key == "lr" or key.startswith("lr/")}
    plots = []
    if any(len(steps) for steps, _ in losses.values()):
        plots.append(svg_plot("Loss", LOSS, lambda axes: _draw_losses(axes, losses)))
    if len(score[0]) > 1:  # the tables have a single score
        plots.append(svg_plot("mIoU on the validation images", MIOU, lambda axes: _draw_score(axes, score, best_step)))
    if rates:
        plots.append(svg_plot("Learning rate", RATE, lambda axes: _draw_rates(axes, rates)))
    return plots


def thinned(points: Curve) -> Curve:
    """Average neighbors until at most ``MAX_POINTS`` are left."""
    steps, values = points
    if len(steps) <= MAX_POINTS:
        return points
    edges = np.linspace(0, len(steps), MAX_POINTS + 1).astype(int)
    lengths = np.diff(edges)
    return np.add.reduceat(steps, edges[:-1]) / lengths, np.add.reduceat(values, edges[:-1]) / lengths


def _label_steps(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_losses(axes: Axes, losses: dict[str, Curve]) -> None:
    for (name, points), color in zip(losses.items(), (DATA, SECOND), strict=True):
        if len(points[0]):
            axes.plot(*thinned(points), color=color, label=name, marker="o" if name == "validation" else None, markersize=3)
    _label_steps(axes)
    axes.set_ylabel("loss")
    axes.legend()


def _draw_score(axes: Axes, score: Curve, best_step: int | None) -> None:
    axes.plot(score[0], 100 * score[1], marker="o", markersize=3, color=DATA)
    best = score[0] == best_step
    if best.any():
        axes.plot(score[0][best], 100 * score[1][best], "o", color=SECOND, markersize=8, label="best checkpoint")
        axes.legend(loc="lower right")
    _label_steps(axes)
    axes.set(ylabel="mIoU, %", ylim=(0, 105 * score[1].max(initial=0.01)))  # None would cut a marker at the top


def _draw_rates(axes: Axes, rates: dict[str, Curve]) -> None:
    for name, points in rates.items():
        axes.plot(*thinned(points), label=name.partition("/")[2])
    _label_steps(axes)
    axes.set(ylabel="learning rate", ylim=(0, None))
    if len(rates) > 1:
        axes.legend()
