"""The score table and files of an evaluation with known counts."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np

from segzoo.evaluation.evaluator import Evaluation
from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.evaluation.report import score_table, write_summary


def evaluation(confusion, names, images=10, loss=None):
    """An evaluation of images with equal counts."""
    matrix = ConfusionMatrix(len(names))
    matrix.matrix = np.array(confusion) * images
    counts = np.repeat(matrix.class_counts()[None] // images, images, axis=0)
    protocol = {"mode": "whole", "crop": None, "scales": [1.0], "images": images, "precision": "bf16"}
    return Evaluation(matrix.scores(names, images, loss), matrix.matrix, protocol, counts, tuple(map(str, range(images))))


def test_the_table_by_hand():
    # 8 pixels of background, 6 of them hit, and 4 of a pit, 3 of them hit
    result = evaluation([[6, 2, 0], [1, 3, 0], [0, 0, 0]], ("background", "pit", "crack"), loss=0.25)
    assert score_table(result, "test").splitlines() == [
        "class          IoU     Acc    Prec      F1   pixels",
        "background   66.67   75.00   85.71   80.00   66.67%",
        "pit          50.00   75.00   60.00   66.67   33.33%",
        "crack            -       -       -       -    0.00%",
        "-" * 51,
        "mIoU 58.33  mAcc 75.00  aAcc 75.00  fwIoU 61.11  loss 0.2500",
        "mIoU without the background: 50.00",
        "mIoU, 95 % confidence interval: 58.33 to 58.33 (bootstrap over images)",
        "1 of 3 classes are absent from the labels and excluded from the means",
        f"10 images of test in bf16, protocol {result.protocol_id}: mode=whole, scales=[1.0]",
    ]


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
