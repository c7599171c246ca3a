"""Plots of the optional scores of an evaluation."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from segzoo.reporting.blocks.plots import DATA, MUTED, SECOND, Plot, svg_plot
from segzoo.types import PlainMapping

RELIABILITY = (
    "How often the network is right where it is that certain. On the dashed line, of the pixels with a confidence of 80 % just 80 % are "
    "right. Below it, the network is too certain."
)
TRIMAP = "Score of the pixels near a boundary between classes. A curve that rises steeply means that the outlines are inexact."

OPERATING = (
    "A pixel is predicted as the defect from this probability on. A low threshold finds more defects (recall) and raises more false alarms "
    "(a lower precision). Both count whole blobs of which at least {overlap} is covered."
)
MAX_CURVES = 8  # classes with an operating curve


def score_facts(summary: PlainMapping) -> list[tuple[str, str]]:
    """Format the single numbers of the optional scores, if measured."""
    facts = []
    for name, key, title in (
        ("boundary_iou", "miou", "boundary IoU, mean over the classes"),
        ("boundary_f", "f", "boundary F, class-agnostic"),
        ("calibration", "ece", "calibration error (ECE)"),
        ("blobs", "reject_rate", "images rejected for a defect"),
    ):
        value = summary.get(name, {}).get(key)
        facts += [] if value is None else [(title, f"{100 * value:.2f} %")]
    blobs = summary.get("blobs", {})
    per_1000 = blobs.get("false_rejects_per_1000")
    facts += [] if per_1000 is None else [("false rejects per 1000 images without a defect", f"{per_1000:.1f}")]
    return facts + ([("images with a defect that are not rejected", str(blobs["missed_images"]))] if blobs else [])


def score_plots(summary: PlainMapping, folder: Path) -> list[Plot]:
    """Plot the curves of the optional scores, if measured.

    Args:
        summary: contents of ``summary.json``.
        folder: its directory, which may have ``operating_curve.csv``.
    """
    plots = _operating_plots(summary, folder / "operating_curve.csv")
    if bins := [entry for entry in summary.get("calibration", {}).get("bins", ()) if entry["pixels"]]:
        plots.append(svg_plot("Reliability", RELIABILITY, lambda axes: _draw_reliability(axes, bins)))
    if points := [point for point in summary.get("trimap", {}).get("curve", ()) if point["miou"] is not None]:
        plots.append(svg_plot("Around boundaries", TRIMAP, lambda axes: _draw_trimap(axes, points)))
    return plots


def _operating_plots(summary: PlainMapping, path: Path) -> list[Plot]:
    """Plot recall and precision of the blobs of each class."""
    if "blobs" not in summary or not path.is_file():
        return []
    overlap = f"{summary['blobs']['overlaps'][0]:g}"
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[f"recall {overlap}"]]
    curves = [(name, list(own)) for name, own in groupby(rows, key=lambda row: row["class"])]
    caption = OPERATING.format(overlap=f"{100 * float(overlap):g} %")
    return [
        svg_plot(f"Operating curve of {name}", caption, lambda axes, own=own: _draw_operating(axes, own, overlap))
        for name, own in curves[:MAX_CURVES]
    ]


def _draw_operating(axes, rows: Sequence[PlainMapping], overlap: str) -> None:
    for score, color in (("recall", DATA), ("precision", SECOND)):
        points = [(float(row["threshold"]), 100 * float(value)) for row in rows if (value := row[f"{score} {overlap}"])]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), color=color, label=score)
    axes.set(xlabel="threshold", ylabel="%", xlim=(0, 1), ylim=(0, 102))
    axes.legend()


def _draw_reliability(axes, bins: Sequence[PlainMapping]) -> None:
    axes.plot((0, 100), (0, 100), "--", color=MUTED, linewidth=1)
    axes.plot(*([100 * entry[key] for entry in bins] for key in ("confidence", "acc")), marker="o", markersize=4, color=DATA)
    axes.set(xlabel="confidence, %", ylabel="pixels right, %", xlim=(0, 100), ylim=(0, 100))


def _draw_trimap(axes, points: Sequence[PlainMapping]) -> None:
    axes.plot([point["width"] for point in points], [100 * point["miou"] for point in points], marker="o", markersize=4, color=DATA)
    axes.set(
        xlabel="width of the band around boundaries, pixels",
        ylabel="mIoU, %",
        ylim=(0, 105 * max(point["miou"] for point in points)),
    )
