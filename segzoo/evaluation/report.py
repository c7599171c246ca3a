"""Scores as files and as a table: summary.json, per_class.csv and what a person reads on the screen."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.evaluation.evaluator import Evaluation
from segzoo.io import write_atomically, write_json, write_text
from segzoo.types import Scores


def write_summary(folder: Path, result: Evaluation, checkpoint_sha256: str | None = None) -> dict[str, Any]:
    """Writes ``summary.json``, ``per_class.csv``, ``confusion.csv`` (rows = label) and ``pictures.npy`` into a folder; returns the summary.

    Args:
        folder: made if it is not there, such as ``<run>/eval``.
        result: what ``evaluate`` returned.
        checkpoint_sha256: of the model file that was scored, so that a score cannot be ascribed to another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = result.scores.to_dict() | {
        "miou_interval": list(result.interval),
        "precision": result.precision,
        "protocol": result.protocol,
        "protocol_id": result.protocol_id,
        "checkpoint_sha256": checkpoint_sha256,
    }
    names = list(result.scores.per_class)
    rows = [[name, entry["iou"], entry["acc"], entry["pixels"]] for name, entry in result.scores.per_class.items()]
    write_text(folder / "per_class.csv", _csv([["class", "iou", "acc", "pixels"], *rows]))
    counts = [[name, *row] for name, row in zip(names, result.confusion.tolist(), strict=True)]
    write_text(folder / "confusion.csv", _csv([["label \\ prediction", *names], *counts]))
    write_atomically(folder / "pictures.npy", lambda file: np.save(file, result.per_image_counts))  # for comparisons image by image
    write_json(folder / "summary.json", summary)
    return summary


def score_table(result: Evaluation) -> str:
    """The per-class table in percent, the means below it, and the protocol they belong to."""
    scores = result.scores
    width = max([5, *(len(name) for name in scores.per_class)])
    total = sum(int(entry["pixels"] or 0) for entry in scores.per_class.values())
    lines = [f"{'class':<{width}}  {'IoU':>6}  {'Acc':>6}  {'pixels':>7}"]
    for name, entry in scores.per_class.items():
        share = 100 * int(entry["pixels"] or 0) / max(total, 1)
        lines.append(f"{name:<{width}}  {_percent(entry['iou'])}  {_percent(entry['acc'])}  {share:6.2f}%")
    low, high = result.interval
    lines += ["-" * len(lines[0]), score_line(scores)]
    lines.append(f"mIoU of images like these: {100 * low:.2f} to {100 * high:.2f} (95 %, bootstrap over images)")
    absent = len(scores.per_class) - scores.classes_present
    if absent:
        lines.append(f"{absent} of {len(scores.per_class)} classes are absent from the labels and left out of the means")
    words = ", ".join(f"{key}={value}" for key, value in result.protocol.items() if value is not None)
    lines.append(f"{scores.images} images in {result.precision}, protocol {result.protocol_id}: {words}")
    return "\n".join(lines)


def score_line(scores: Scores) -> str:
    """The means in percent, on one line."""
    loss = "" if scores.loss is None else f"  loss {scores.loss:.4f}"
    return f"mIoU {100 * scores.miou:.2f}  mAcc {100 * scores.macc:.2f}  aAcc {100 * scores.aacc:.2f}  fwIoU {100 * scores.fwiou:.2f}{loss}"


def _percent(value: float | int | None) -> str:
    return f"{'-':>6}" if value is None else f"{100 * value:6.2f}"


def _csv(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
