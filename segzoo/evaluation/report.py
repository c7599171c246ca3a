"""Score files, and scores on one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from segzoo.evaluation.bootstrap import mean_iou
from segzoo.evaluation.evaluator import Evaluation
from segzoo.evaluation.metrics import Scores
from segzoo.io import csv_text, write_array, write_json, write_text
from segzoo.messages import printable
from segzoo.types import PlainDict


def write_summary(folder: Path, result: Evaluation, checkpoint_sha256: str | None = None, split: str = "val") -> PlainDict:
    """Write the scores into a folder and return the summary.

    The files are ``summary.json``, ``per_class.csv``, ``confusion.csv`` (rows are labels), ``per_image.csv`` (worst image first),
    ``per_image_counts.npy``, ``per_image_errors.npy``, ``image_names.json``, whose names are in the order of the counts, and the tables
    of the optional scores.

    Args:
        folder: output folder, such as ``<run>/eval``. It is created if missing.
        result: the result of ``evaluate``.
        checkpoint_sha256: checksum of the scored model file, which ties the scores to that file.
        split: the scored split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summary = result.scores.to_dict() | {
        "split": split,
        "miou_interval": None if result.interval is None else list(result.interval),
        "group_by": result.group_by,
        "groups": None if result.group_by is None else len(result.drawn_counts),
        "precision": result.precision,
        "protocol": result.protocol,
        "protocol_id": result.protocol_id,
        "checkpoint_sha256": checkpoint_sha256,
    }
    summary |= {name: score.values for name, score in result.extra.items()}
    names = list(result.scores.per_class)
    columns = ("iou", "acc", "pixels", "precision", "f1")
    rows = [[name, *(entry[column] for column in columns)] for name, entry in result.scores.per_class.items()]
    write_text(folder / "per_class.csv", csv_text([["class", *columns], *rows]))
    counts = [[name, *row] for name, row in zip(names, result.confusion.tolist(), strict=True)]
    write_text(folder / "confusion.csv", csv_text([["label \\ prediction", *names], *counts]))
    write_text(folder / "per_image.csv", csv_text(_per_image_rows(result)))
    for file, table in [each for score in result.extra.values() for each in score.tables.items()]:
        write_text(folder / file, csv_text(table))
    write_array(folder / "per_image_counts.npy", result.per_image_counts)  # for tools/compare.py
    write_array(folder / "per_image_errors.npy", result.errors.astype(np.int32))  # for the report page
    write_text(folder / "image_names.json", json.dumps(result.names) + "\n")  # in ASCII: a name may be no valid UTF-8
    write_json(folder / "summary.json", summary)
    return summary


def _per_image_rows(result: Evaluation) -> list[list[object]]:
    """List the scores of each image, worst first.

    The mIoU is the mean over the classes labeled in the image. Images without a labeled pixel come last. ``index`` is the position in
    ``per_image_counts.npy``.
    """
    counts = result.per_image_counts
    hits, labeled, predicted = np.moveaxis(counts, 1, 0)
    pixels, miou = labeled.sum(1), mean_iou(counts)
    iou = hits / np.maximum(labeled + predicted - hits, 1)
    rows: list[list[object]] = [["image", "index", "miou", "acc", "pixels", *(f"iou {name}" for name in result.scores.per_class)]]
    for index in np.lexsort((np.arange(len(counts)), miou, pixels == 0)):
        total = int(pixels[index])
        means = [float(miou[index]), float(hits[index].sum() / total)] if total else [None, None]
        per_class = [float(iou[index, k]) if labeled[index, k] else None for k in range(counts.shape[2])]
        rows.append([printable(result.names[index]), int(index), *means, total, *per_class])
    return rows


def score_line(scores: Scores) -> str:
    """Format the mean scores in percent on one line."""
    loss = "" if scores.loss is None else f"  loss {scores.loss:.4f}"
    return f"mIoU {100 * scores.miou:.2f}  mAcc {100 * scores.macc:.2f}  aAcc {100 * scores.aacc:.2f}  fwIoU {100 * scores.fwiou:.2f}{loss}"
