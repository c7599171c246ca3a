"""Matrices whose cells are shaded by their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segzoo.reporting.blocks.plots import Plot, svg_plot

MAX_CLASSES = 30  # in a table; of more, those with the most wrong pixels
OVERVIEW = "Each pixel is a cell of the whole confusion matrix, with the classes in the order of the configuration. Off the diagonal, dark is bad."


class Cell(NamedTuple):
    """A shaded cell.

    Attributes:
        shade: 0 to 1.
        text: what it shows.
        title: what a pointer over it shows.
        marked: it lies on the diagonal.
    """

    shade: float
    text: str
    title: str = ""
    marked: bool = False


class Matrix(NamedTuple):
    """A table of shaded cells.

    Attributes:
        corner: what rows and columns are.
        columns: names of the columns.
        rows: name and cells of each row.
        note: a remark, empty without one.
    """

    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""


def confusion_table(counts: np.ndarray, classes: Sequence[str]) -> Matrix:
    """Tabulate how the pixels of each class are predicted, in percent.

    Classes without a labeled pixel have no row. Of many classes, those with the most wrong pixels are shown, and a column sums up the others.

    Args:
        counts: (K, K), row = label, column = prediction.
        classes: K names.
    """
    labeled = counts.sum(1)
    wrong = labeled + counts.sum(0) - 2 * counts.diagonal()
    shown = list(range(len(classes)))
    if len(classes) > MAX_CLASSES:
        shown = sorted(np.argsort(-wrong, kind="stable")[:MAX_CLASSES].tolist())
    columns, note = [classes[k] for k in shown], ""
    if len(shown) < len(classes):
        columns.append("others")
        note = (
            f"Shown are the {len(shown)} of {len(classes)} classes with the most wrong pixels. The last column sums up the others."
        )
    rows = []
    for k in shown:
        if not labeled[k]:
            continue
        fractions = counts[k, shown] / labeled[k]
        cells = [
            _cell(fraction, classes[k], classes[j], int(counts[k, j]), j == k) for j, fraction in zip(shown, fractions, strict=True)
        ]
        if len(shown) < len(classes):
            others = int(labeled[k] - counts[k, shown].sum())
            cells.append(_cell(others / labeled[k], classes[k], "other classes", others, False))
        rows.append((classes[k], cells))
    return Matrix("label \\ prediction", columns, rows, note)


def _cell(fraction: float, label: str, prediction: str, pixels: int, diagonal: bool) -> Cell:
    text = ("0" if diagonal else "") if pixels == 0 else "<1" if fraction < 0.01 else f"{100 * fraction:.0f}"
    return Cell(fraction, text, f"{label} predicted as {prediction}: {100 * fraction:.2f} %, {pixels:,} pixels", diagonal)


def confusion_plot(counts: np.ndarray) -> Plot:
    """Plot the confusion matrix of many classes, normalized by row."""
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def draw(axes) -> None:
        image = axes.imshow(100 * fractions, cmap="viridis_r", vmin=0, vmax=100, interpolation="nearest")
        axes.set(xlabel="number of the predicted class", ylabel="number of the labeled class")
        axes.grid(False)
        axes.figure.colorbar(image, label="% of the labeled pixels")

    return svg_plot("All classes", OVERVIEW, draw, (5.6, 4.6))
