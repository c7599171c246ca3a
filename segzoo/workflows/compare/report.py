"""Tables of a comparison, for the terminal and as CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from segzoo.io import csv_text, write_json, write_text
from segzoo.reporting.numbers import format_p_value
from segzoo.reporting.text_table import Column, text_table
from segzoo.types import PlainDict, PlainMapping
from segzoo.workflows.compare.comparison import NOT_RESOLVED

RANKS = {"p": 1, "each seed": 2}  # columns that a narrow terminal leaves out
SHOWN_PAIRS = 3  # the terminal shows classes and images of so many pairs; the files hold all


def write_comparison(folder: Path, result: PlainDict) -> None:
    """Write ``differences.csv``, ``changed_images.csv`` and ``compare.json``.

    Scores are fractions. The JSON file comes last, as it marks the directory as finished.
    """
    rows: list[list[object]] = [["first", "second", "class", "difference", "low", "high", "p_value", "verdict"]]
    images: list[list[object]] = [["first", "second", "image", "miou_first", "miou_second"]]
    for pair in result["pairs"]:
        names = [pair["first"], pair["second"]]
        rows += [[*names, *_cells(entry, label)] for label, entry in {"mIoU": pair, **pair["per_class"]}.items()]
        images += [[*names, image["image"], image["first"], image["second"]] for image in pair["changed_images"]]
    write_text(folder / "differences.csv", csv_text(rows))
    write_text(folder / "changed_images.csv", csv_text(images))
    write_json(folder / "compare.json", result)


def comparison_text(result: PlainMapping, width: int | None = None) -> str:
    """Format the scores, the differences and what limits them, in percent.

    Args:
        result: as ``compare_evaluations`` returns it.
        width: columns of the terminal; None shows everything.
    """
    images = f"{result['images']} images"
    units = images if result["groups"] is None else f"{images} in {result['groups']} groups"
    lines = [f"FORCED, these scores are not comparable: {reason}" for reason in result["forced"]]
    lines += [f"mIoU on {units}, 95 % intervals of {result['draws']} bootstrap draws", "", *_model_table(result["models"], width)]
    if result["seed_deviation"] is not None:
        lines.append(f"standard deviation over seeds: {100 * result['seed_deviation']:.2f}, part of the intervals below")
    lines += ["", *_pair_table(result["pairs"], width)]
    for pair in result["pairs"][:SHOWN_PAIRS]:
        lines += ["", *_class_table(pair, width), *_image_table(pair, width)]
    if len(result["pairs"]) > SHOWN_PAIRS:
        lines += ["", "differences.csv and changed_images.csv hold the classes and images of all pairs"]
    notes = [f"note: {note}" for note in result["notes"]]
    if width is not None:
        notes = [line for note in notes for line in textwrap.wrap(note, max(width, 20), subsequent_indent="  ")]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _model_table(models: Sequence[PlainMapping], width: int | None) -> list[str]:
    rows = [["model", "mIoU", "95 % interval", "seeds", "each seed"]]
    for model in sorted(models, key=lambda model: -model["miou"]):
        scores = [f"{100 * evaluation['miou']:.2f}" for evaluation in model["evaluations"]]
        own = ", ".join(scores) if len(scores) > 1 else ""
        rows.append([model["name"], f"{100 * model['miou']:.2f}", _interval(model["interval"], sign=""), str(len(scores)), own])
    if all(len(model["evaluations"]) == 1 for model in models):
        rows = [row[:3] for row in rows]
    return _table(rows, width)


def _pair_table(pairs: Sequence[PlainMapping], width: int | None) -> list[str]:
    rows = [["mIoU, first minus second", "difference", "95 % interval", "p", "verdict"]]
    rows += [[f"{pair['first']} - {pair['second']}", *difference_texts(pair)] for pair in pairs]
    note = ["p and the verdicts are corrected for the number of pairs (Holm)"] if len(pairs) > 1 else []
    return _table(rows, width) + note


def _class_table(pair: PlainMapping, width: int | None) -> list[str]:
    """The class differences of a pair, the resolved and largest first."""
    entries = [(name, entry) for name, entry in pair["per_class"].items() if entry["difference"] is not None]
    entries.sort(key=lambda item: (item[1]["verdict"] == NOT_RESOLVED, -abs(item[1]["difference"])))
    title = f"IoU, {pair['first']} - {pair['second']}"
    return _table(
        [[title, "difference", "95 % interval", "p", "verdict"], *([name, *difference_texts(entry)] for name, entry in entries)],
        width,
    )


def _image_table(pair: PlainMapping, width: int | None) -> list[str]:
    rows = [
        [
            image["image"],
            f"{100 * image['first']:.1f}",
            f"{100 * image['second']:.1f}",
            f"{100 * (image['first'] - image['second']):+z.1f}",
        ]
        for image in pair["changed_images"]
    ]
    return ["", *_table([["changed most, image mIoU", pair["first"], pair["second"], "difference"], *rows], width)] if rows else []


def difference_texts(entry: PlainMapping) -> list[str]:
    """Format difference, interval, p-value and verdict."""
    p_value = "-" if entry["p_value"] is None else format_p_value(entry["p_value"])
    return [f"{100 * entry['difference']:+z.2f}", _interval(entry["interval"]), p_value, entry["verdict"]]


def _interval(interval: Sequence[float] | None, sign: str = "+") -> str:
    return "-" if interval is None else f"{100 * interval[0]:{sign}z.2f} to {100 * interval[1]:{sign}z.2f}"


def _table(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Align rows, of which the first holds the titles.

    A narrow terminal gets no p-values.
    """
    columns = [Column(title, cells, RANKS.get(title, 0)) for title, *cells in zip(*rows, strict=True)]
    return text_table(columns, width)


def _cells(entry: PlainMapping, label: str) -> list[object]:
    low, high = entry["interval"] or (None, None)
    return [label, entry["difference"], low, high, entry["p_value"], entry["verdict"]]
