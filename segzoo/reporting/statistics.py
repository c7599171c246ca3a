"""Statistics of a data set as tables and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from segzoo.data.balance.class_weights import MAX_WEIGHT, effective_number, inverse_sqrt, median_frequency
from segzoo.data.statistics.measure import SplitStatistics
from segzoo.messages import format_override
from segzoo.reporting.blocks.bars import Bar, BarRow
from segzoo.reporting.html import render_template
from segzoo.types import PlainDict

Table = tuple[list[str], list[list[str]]]  # header, rows
Splits = Mapping[str, SplitStatistics]
WEIGHTS = {"median frequency": median_frequency, "inverse square root": inverse_sqrt, "effective number": effective_number}
PERCENTILES = (5, 50, 95)
PREFIXES = ("", "k", "M", "G")  # of a thousand and its powers
MAX_BARS = 60  # classes in a chart; of more, the rarest


def shown_classes(statistics: SplitStatistics) -> list[int]:
    """Train ids of the classes.

    Data sets with more than 255 have one named ``ignore``, which is left out.
    """
    return [index for index, name in enumerate(statistics.classes) if name != "ignore"]


def charted_classes(statistics: SplitStatistics) -> list[int]:
    """Train ids of the classes in a chart, of many the rarest."""
    rarest = sorted(
        shown_classes(statistics), key=lambda index: (statistics.class_pixels[index] == 0, statistics.class_pixels[index])
    )
    return sorted(rarest[:MAX_BARS])


def class_table(splits: Splits) -> Table:
    """Tabulate fractions, images and blobs of each class."""
    header = ["class"]
    for name in splits:
        header += [f"{name}: pixels", "images", "blobs", *(f"{percent}%" for percent in PERCENTILES)]
    rows = []
    first = next(iter(splits.values()))
    for index in shown_classes(first):
        row = [first.classes[index]]
        for one in splits.values():
            blobs = one.blobs[one.classes[index]]
            sizes = [f"{size:,.0f}" for size in np.percentile(blobs, PERCENTILES)] if len(blobs) else [""] * len(PERCENTILES)
            row += [f"{one.class_fractions[index]:.3%}", str(one.class_images[index]), f"{len(blobs):,}", *sizes]
        rows.append(row)
    return header, rows


def image_table(splits: Splits) -> Table:
    """Tabulate number, size, aspect ratio, mean and standard deviation of the images."""
    rows = []
    for name, one in splits.items():
        sizes = np.repeat(np.array(list(one.sizes)), list(one.sizes.values()), axis=0)
        spreads = [_spread(values) for values in (sizes[:, 0], sizes[:, 1], sizes[:, 1] / sizes[:, 0])]
        mean, std = ([f"{value:.2f}" for value in values] for values in one.mean_and_std())
        ignored = one.ignored_pixels / max(one.histogram[0].sum(), 1)
        rows.append([name, str(one.num_images), str(len(one.sizes)), *spreads, f"{ignored:.2%}", ", ".join(mean), ", ".join(std)])
    channels = " RGB" if len(next(iter(splits.values())).histogram) == 3 else ""
    return ["split", "images", "sizes", "height", "width", "width / height", "ignored", f"mean{channels}", f"std{channels}"], rows


def _spread(values: np.ndarray) -> str:
    """Smallest, median and largest value, or the only one."""
    low, middle, high = (
        f"{value:.4g}" if value < 1000 else f"{value:.0f}" for value in (values.min(), np.median(values), values.max())
    )
    return low if low == high else f"{low} to {high}, median {middle}"


def overrides(statistics: SplitStatistics) -> dict[str, str]:
    """Settings measured on a split, ready to paste into a command.

    Returns:
        What each is, and its override in quotes.
    """
    mean, std = statistics.mean_and_std()
    pasted = {
        "mean": format_override("data.mean", [round(value, 2) for value in mean]),
        "standard deviation": format_override("data.std", [max(round(value, 2), 0.01) for value in std]),
    }
    for name, weights in WEIGHTS.items():
        values = [min(float(f"{weight:.4g}"), MAX_WEIGHT) for weight in weights(statistics.class_counts)]
        pasted[f"{name} weights"] = format_override("loss.class_weights", values)
    return pasted


def plain_statistics(splits: Splits) -> PlainDict:
    """Convert to plain containers for JSON."""
    return {name: _plain(one) for name, one in splits.items()}


def _plain(one: SplitStatistics) -> PlainDict:
    mean, std = one.mean_and_std()
    classes = {}
    for index in shown_classes(one):
        blobs = one.blobs[one.classes[index]]
        classes[one.classes[index]] = {
            "fraction": float(one.class_fractions[index]),
            "pixels": int(one.class_pixels[index]),
            "images": int(one.class_images[index]),
            "blobs": len(blobs),
            "blob_sizes": {f"{percent}%": float(np.percentile(blobs, percent)) for percent in PERCENTILES} if len(blobs) else None,
        }
    sizes = [{"height": height, "width": width, "images": count} for (height, width), count in sorted(one.sizes.items())]
    return {
        "images": one.num_images,
        "sizes": sizes,
        "mean": mean,
        "std": std,
        "ignored_pixels": one.ignored_pixels,
        "classes": classes,
    }


def statistics_page(title: str, splits: Splits, pasted: Mapping[str, str], notes: Sequence[str]) -> str:
    """Render the page.

    Args:
        title: name of the data set.
        splits: name of each split and its statistics.
        pasted: as ``overrides`` returns.
        notes: remarks.
    """
    name, first = next(iter(splits.items()))
    largest = max((blobs[-1] for blobs in first.blobs.values() if len(blobs)), default=1)
    decades = max(1, math.ceil(math.log10(largest)))
    return render_template(
        "data_statistics.html",
        title=title,
        split=name,
        classes=class_table(splits),
        images=image_table(splits),
        fractions=_fraction_rows(first),
        blobs=_blob_rows(first, decades),
        decades=[(power / decades, f"{10 ** (power % 3)}{PREFIXES[power // 3]}") for power in range(decades + 1)],
        pasted=pasted,
        notes=notes,
    )


def _fraction_rows(one: SplitStatistics) -> list[BarRow]:
    """Bars of the class fractions, of which the largest fills its track."""
    classes = charted_classes(one)
    largest = max([*one.class_fractions[classes], 1e-9])
    return [
        BarRow(one.classes[index], Bar(0.0, float(one.class_fractions[index] / largest)), [f"{one.class_fractions[index]:.2%}"])
        for index in classes
    ]


def _blob_rows(one: SplitStatistics, decades: int) -> list[BarRow]:
    """Ranges of the blob sizes on a logarithmic track of some decades."""
    rows = []
    for index in charted_classes(one):
        blobs = one.blobs[one.classes[index]]
        if len(blobs):
            sizes = np.percentile(blobs, PERCENTILES)
            low, median, high = (float(place) for place in np.log10(sizes) / decades)
            rows.append(BarRow(one.classes[index], Bar(low=low, high=high, point=median), [f"{size:,.0f}" for size in sizes]))
    return rows
