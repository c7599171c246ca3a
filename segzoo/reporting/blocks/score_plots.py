"""Plots of the optional scores in ``summary.json``."""

from __future__ import annotations

from collections.abc import Sequence

from segzoo.reporting.blocks.plots import DATA, MUTED, Plot, svg_plot
from segzoo.types import PlainMapping

RELIABILITY = (
    "How often the network is right where it is that certain. On the dashed line, of the pixels with a confidence of 80 % just 80 % are "
    "right. Below it, the network is too certain."
)
TRIMAP = "Score of the pixels near a boundary between classes. A curve that rises steeply means that the outlines are inexact."


def score_plots(summary: PlainMapping) -> list[Plot]:
    """Plot the reliability curve and the scores around boundaries, if measured."""
    plots = []
    if bins := [entry for entry in summary.get("calibration", {}).get("bins", ()) if entry["pixels"]]:
        plots.append(svg_plot("Reliability", RELIABILITY, lambda axes: _draw_reliability(axes, bins)))
    if points := [point for point in summary.get("trimap", {}).get("curve", ()) if point["miou"] is not None]:
        plots.append(svg_plot("Around boundaries", TRIMAP, lambda axes: _draw_trimap(axes, points)))
    return plots


def _draw_reliability(axes, bins: Sequence[PlainMapping]) -> None:
    axes.plot((0, 100), (0, 100), "--", color=MUTED, linewidth=1)
    axes.plot(*([100 * entry[key] for entry in bins] for key in ("confidence", "acc")), marker="o", markersize=4, color=DATA)
    axes.set(xlabel="confidence, %", ylabel="pixels right, %", xlim=(0, 100), ylim=(0, 100))


def _draw_trimap(axes, points: Sequence[PlainMapping]) -> None:
    axes.plot([point["width"] for point in points], [100 * point["miou"] for point in points], marker="o", markersize=4, color=DATA)
    axes.set(xlabel="width of the band around boundaries, pixels", ylabel="mIoU, %", ylim=(0, None))
