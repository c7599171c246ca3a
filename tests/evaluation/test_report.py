"""The files of an evaluation with known counts."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
from known_scores import evaluation

from segzoo.evaluation.report import write_summary


def test_class_names_are_no_formulas_in_csv_files(tmp_path):
    names = ("=cmd|' /C calc'!A0", "-1+1", "@road", "+1", "sky")
    write_summary(tmp_path, evaluation(np.eye(5, dtype=int), names))
    for name in ("per_class.csv", "confusion.csv"):
        rows = list(csv.reader((tmp_path / name).open()))
        assert [row[0] for row in rows[1:]] == [*(f"'{name}" for name in names[:4]), "sky"]
    assert rows[0][1:] == [*(f"'{name}" for name in names[:4]), "sky"]


def test_the_worst_image_comes_first(tmp_path):
    counts = np.array(
        [
            [[2, 1, 0], [2, 2, 0], [2, 2, 0]],  # IoU 1 and 1/3
            [[0, 0, 0], [4, 0, 0], [0, 4, 0]],  # IoU 0
            [[0, 0, 0], [0, 0, 0], [0, 0, 0]],  # nothing is labeled
            [[4, 0, 0], [4, 0, 0], [4, 0, 0]],  # IoU 1
        ]
    )
    result = replace(
        evaluation(np.eye(3, dtype=int), ("sky", "road", "tree"), 4), per_image_counts=counts, names=("a", "=b", "c", "d")
    )
    write_summary(tmp_path, result)
    rows = list(csv.reader((tmp_path / "per_image.csv").open()))
    assert rows[0] == ["image", "index", "miou", "acc", "pixels", "iou sky", "iou road", "iou tree"]
    assert rows[1:] == [
        ["'=b", "1", "0.0", "0.0", "4", "0.0", "", ""],
        ["a", "0", str((1 + 1 / 3) / 2), "0.75", "4", "1.0", str(1 / 3), ""],
        ["d", "3", "1.0", "1.0", "4", "1.0", "", ""],
        ["c", "2", "", "", "0", "", "", ""],
    ]
