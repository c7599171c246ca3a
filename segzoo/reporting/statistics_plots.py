"""Plots of data statistics, drawn by matplotlib (extra ``plot``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segzoo.data.statistics.measure import SplitStatistics
from segzoo.reporting.statistics import PERCENTILES, charted_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_plots(folder: Path, splits: Mapping[str, SplitStatistics]) -> list[Path]:
    """Write one PNG file per plot.

    Class fractions and image sizes compare the splits. Blob sizes and channel values are those of the first one.

    Args:
        folder: is created.
        splits: name of each split and its statistics.

    Returns:
        The files.
    """
    from matplotlib.figure import Figure

    name, first = next(iter(splits.items()))
    classes = charted_classes(first)
    height = 1.5 + 0.3 * len(classes)
    plots = {
        "class_fractions": ((8, height), lambda axes: _plot_fractions(axes, splits, classes)),
        "blob_sizes": ((8, height), lambda axes: _plot_blobs(axes, name, first, classes)),
        "image_sizes": ((6, 5), lambda axes: _plot_sizes(axes, splits)),
        "channels": ((8, 4), lambda axes: _plot_channels(axes, name, first)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for plot, (size, draw) in plots.items():
        figure = Figure(figsize=size)
        draw(figure.add_subplot())
        figure.savefig(folder / f"{plot}.png", dpi=120, bbox_inches="tight")
    return [folder / f"{plot}.png" for plot in plots]


def _plot_fractions(axes: Axes, splits: Mapping[str, SplitStatistics], classes: list[int]) -> None:
    rows, height = np.arange(len(classes)), 0.8 / len(splits)
    for number, (name, one) in enumerate(splits.items()):
        axes.barh(rows + height * number, one.class_fractions[classes] * 100, height, label=name)
    first = next(iter(splits.values()))
    axes.set_yticks(rows + height * (len(splits) - 1) / 2, [_plain(first.classes[index]) for index in classes])
    axes.set(xscale="log" if any(one.class_pixels.any() for one in splits.values()) else "linear", xlabel="% of the labeled pixels")
    axes.invert_yaxis()
    axes.legend()


def _plot_blobs(axes: Axes, name: str, one: SplitStatistics, classes: list[int]) -> None:
    names = [one.classes[index] for index in classes if len(one.blobs[one.classes[index]])]
    if names:
        low, median, high = np.transpose([np.percentile(one.blobs[label], PERCENTILES) for label in names])
        rows = np.arange(len(names))
        axes.hlines(rows, low, high)
        axes.plot(median, rows, "o")
        axes.set_yticks(rows, [_plain(label) for label in names])
        axes.set_xscale("log")
    axes.set(xlabel=f"pixels of a blob, {name} (median, 5th to 95th percentile)")
    axes.invert_yaxis()


def _plot_sizes(axes: Axes, splits: Mapping[str, SplitStatistics]) -> None:
    for name, one in splits.items():
        height, width = np.array(list(one.sizes)).T
        axes.scatter(width, height, 20 + 10 * np.sqrt(list(one.sizes.values())), alpha=0.5, label=name)
    axes.set(xlabel="width, pixels", ylabel="height, pixels")
    axes.legend()


def _plot_channels(axes: Axes, name: str, one: SplitStatistics) -> None:
    channels = len(one.histogram)
    colors = ("red", "green", "blue") if channels == 3 else [None] * channels
    for channel, color in enumerate(colors):
        counts = one.histogram[channel].reshape(256, -1).sum(1)  # of 16 bits, 256 values together
        values = np.arange(256) * (one.histogram.shape[1] // 256)
        axes.plot(values, counts / counts.sum() * 100, color=color, label=color or f"channel {channel}")
    axes.set(xlabel=f"value, {name}", ylabel="% of the pixels")
    axes.legend()


def _plain(text: str) -> str:
    """Escape letters that matplotlib's font lacks, and the sign of a formula."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    return "".join(letter if font.get_char_index(ord(letter)) else f"\\u{ord(letter):x}" for letter in text).replace("$", r"\$")
