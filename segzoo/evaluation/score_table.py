"""The score table that is printed to the terminal."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segzoo.evaluation.bootstrap import MIN_IMAGES, counts_by_group, resample
from segzoo.evaluation.metrics import COUNTS, Scores
from segzoo.evaluation.report import score_line
from segzoo.reporting.numbers import format_count, format_interval, format_percent
from segzoo.reporting.text_table import Column, display_width, text_table
from segzoo.types import PlainMapping


class ClassScore(NamedTuple):
    """Scores of one class.

    Attributes:
        name: its name.
        values: ``iou``, ``acc``, ``precision`` and ``f1``, None if the class is absent.
        interval: 95 % interval of the IoU, None for few images.
        images: number of images with a labeled pixel of the class.
        share: its fraction of all labeled pixels.
    """

    name: str
    values: PlainMapping
    interval: tuple[float, float] | None
    images: int
    share: float


def read_score_table(folder: Path, width: int | None = None) -> str:
    """Format the scores that ``write_summary`` has written into a folder."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    counts, group_by = np.load(folder / "per_image_counts.npy"), summary.get("group_by")
    names = [] if group_by is None else json.loads((folder / "image_names.json").read_text(encoding="utf-8"))
    return score_table(summary, counts, width, counts_by_group(counts, names, group_by))


def score_table(summary: PlainMapping, counts: np.ndarray, width: int | None = None, drawn: np.ndarray | None = None) -> str:
    """Format the scores of each class, their means and the protocol.

    The worst class comes first. Scores are in percent, with the 95 % confidence interval of the IoU. ``images`` counts those with a labeled pixel of the class.

    Args:
        summary: the contents of ``summary.json``.
        counts: (N, 3, K), as in ``Evaluation.per_image_counts``.
        width: columns of the terminal; None shows everything.
        drawn: (G, 3, K), as in ``Evaluation.drawn_counts``; None draws the images.
    """
    scores = Scores(**{field.name: summary[field.name] for field in fields(Scores)})
    table = text_table(_class_columns(class_scores(scores.per_class, counts, counts if drawn is None else drawn)), width)
    lines = [*table, "-" * max(map(display_width, table))]
    for line in _overall_lines(scores, summary):
        lines += [line] if width is None else textwrap.wrap(line, max(width, 20), subsequent_indent="  ")
    return "\n".join(lines)


def class_scores(per_class: Mapping[str, PlainMapping], counts: np.ndarray, drawn: np.ndarray) -> list[ClassScore]:
    """List the scores of each class, worst first, absent ones last.

    Args:
        per_class: the entry of ``summary.json``, in the order of the classes.
        counts, drawn: see ``score_table``.
    """
    images = (counts[:, COUNTS.index("labeled")] > 0).sum(0)
    resampled = resample(drawn) if len(drawn) >= MIN_IMAGES else None
    total = max(sum(int(entry["pixels"] or 0) for entry in per_class.values()), 1)
    rows = [
        ClassScore(name, entry, resampled.interval(k) if resampled else None, int(number), int(entry["pixels"] or 0) / total)
        for k, ((name, entry), number) in enumerate(zip(per_class.items(), images, strict=True), 1)
    ]
    return sorted(rows, key=lambda row: (row.values["iou"] is None, row.values["iou"] or 0))


def _class_columns(rows: Sequence[ClassScore]) -> list[Column]:
    """Columns of the table, ranked by importance."""

    def percent(key: str) -> list[str]:
        return [_percent(row.values[key]) for row in rows]

    columns = [
        Column("class", [row.name for row in rows]),
        Column("IoU", percent("iou")),
        Column("95 % interval", [format_interval(row.interval, 1) for row in rows], rank=3),
        Column("Acc", percent("acc"), rank=4),
        Column("Prec", percent("precision"), rank=5),
        Column("F1", percent("f1"), rank=6),
        Column("images", [str(row.images) for row in rows], rank=1),
        Column("pixels", [f"{100 * row.share:.2f}%" for row in rows], rank=2),
    ]
    return columns if any(row.interval for row in rows) else [column for column in columns if column.title != "95 % interval"]


def _overall_lines(scores: Scores, summary: PlainMapping) -> list[str]:
    """Lines about the whole data set."""
    lines = [score_line(scores)]
    if scores.miou_foreground is not None:
        lines.append(f"mIoU without the background: {100 * scores.miou_foreground:.2f}")
    groups = summary.get("groups")
    if summary["miou_interval"] is None:
        drawn = format_count(scores.images, "image") if groups is None else f"{format_count(groups, 'group')} of images"
        lines.append(f"no confidence interval from {drawn}: at least {MIN_IMAGES} are needed")
    else:
        low, high = summary["miou_interval"]
        drawn = "images" if groups is None else f"{groups} groups of images"
        lines.append(f"mIoU, 95 % confidence interval: {100 * low:.2f} to {100 * high:.2f} (bootstrap over {drawn})")
    absent = len(scores.per_class) - scores.classes_present
    if absent:
        lines.append(f"{absent} of {len(scores.per_class)} classes are absent from the labels and excluded from the means")
    settings = [
        f"{key}={value}" for key, value in summary["protocol"].items() if value is not None and key not in ("images", "precision")
    ]
    subject = f"{scores.images} images of {summary['split']} in {summary['precision']}"
    return [*lines, f"{subject}, protocol {summary['protocol_id']}: {', '.join(settings)}"]


def _percent(value: float | int | None) -> str:
    return "-" if value is None else format_percent(value)
