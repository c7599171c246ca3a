"""The score table of an evaluation with known counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from known_scores import evaluation

from segzoo.evaluation.bootstrap import resample
from segzoo.evaluation.report import write_summary
from segzoo.evaluation.score_table import read_score_table, score_table


def test_the_table_by_hand(tmp_path):
    # 8 pixels of background, 6 of them hit, and 4 of a pit, 3 of them hit
    result = evaluation([[6, 2, 0], [1, 3, 0], [0, 0, 0]], ("background", "pit", "crack"), loss=0.25)
    write_summary(tmp_path, result, split="test")
    assert read_score_table(tmp_path).splitlines() == [
        "class         IoU  95 % interval    Acc   Prec     F1  images  pixels",
        "pit         50.00   50.0 to 50.0  75.00  60.00  66.67      10  33.33%",
        "background  66.67   66.7 to 66.7  75.00  85.71  80.00      10  66.67%",
        "crack           -              -      -      -      -       0   0.00%",
        "-" * 69,
        "mIoU 58.33  mAcc 75.00  aAcc 75.00  fwIoU 61.11  loss 0.2500",
        "mIoU without the background: 50.00",
        "mIoU, 95 % confidence interval: 58.33 to 58.33 (bootstrap over images)",
        "1 of 3 classes are absent from the labels and excluded from the means",
        f"10 images of test in bf16, protocol {result.protocol_id}: mode=whole, scales=[1.0]",
    ]


def test_a_narrow_terminal_shows_the_most_important_columns(tmp_path):
    result = evaluation([[6, 2], [1, 3]], ("background", "a scratch of the upper left edge"))
    summary = write_summary(tmp_path, result)
    titles = {}
    for width in (90, 80, 70, 60, 50, 40, 30, 20):
        lines = score_table(summary, result.per_image_counts, width).splitlines()
        assert max(map(len, lines)) <= width
        titles[width] = lines[0].split()[1:]
    assert titles[90] == ["IoU", "95", "%", "interval", "Acc", "Prec", "images", "pixels"]
    assert titles[80] == ["IoU", "95", "%", "interval", "Acc", "images", "pixels"]
    assert titles[60] == ["IoU", "images", "pixels"] and titles[50] == ["IoU", "images"] and titles[30] == ["IoU"]
    assert lines[1] == "a scratch of…  50.00"


def test_intervals_and_images_are_those_of_each_class():
    rng = np.random.default_rng(0)
    labeled = rng.integers(10, 100, (30, 2))
    labeled[:25, 1] = 0  # only in five images, too few for an interval
    hits = rng.integers(0, labeled + 1)
    counts = np.stack([hits, labeled, labeled], axis=1)
    summary = {
        **evaluation([[1, 0], [0, 1]], ("many", "few"), 30).scores.to_dict(),
        **{"split": "val", "miou_interval": None, "precision": "fp32", "protocol": {}, "protocol_id": "x"},
    }
    many, few = score_table(summary, counts).splitlines()[1:3]
    low, high = resample(counts).interval(1) or (0, 0)
    assert f"{100 * low:.1f} to {100 * high:.1f}" in many and low < high and many.split()[-2] == "30"
    assert few.split()[:3] == ["few", "100.00", "-"] and few.split()[-2] == "5"


def test_few_images_have_no_intervals(tmp_path):
    result = evaluation([[6, 2], [1, 3]], ("sky", "road"), images=3)
    table = score_table(write_summary(tmp_path, replace(result, names=("a", "b", "c"))), result.per_image_counts)
    assert "interval" not in table.splitlines()[0] and "no confidence interval from 3 images: at least 10 are needed" in table
