"""Inspection of a split before training starts."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import SPLIT_FOLDERS, build_folder, make_pairs, save

from segzoo.data.checks import inspect_split
from segzoo.types import DataError


def test_inspect_split_counts_images_sizes_and_classes(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS)
    half = np.full((6, 8), 255, np.uint8)
    half[:, :2] = 1
    for stem in "abc":
        save(tmp_path / f"labels/train/{stem}.png", half)
    report = inspect_split(build_folder(tmp_path), seconds=60)
    assert (report.num_images, report.num_read, report.sizes) == (3, 3, {(6, 8): 3})
    assert (
        report.class_fractions == {"x": 0, "y": 1, "z": 0}
        and report.ignored_fraction == 0.75
        and report.absent_classes == ("x", "z")
    )
    assert [line.split(" ")[0] for line in report.warnings()] == ["in", "75%"]
    assert inspect_split(build_folder(tmp_path), seconds=1e-9).num_read == 1
    save(tmp_path / "labels/train/c.png", half * 0 + 7)
    with pytest.raises(DataError, match=r"c\.png: holds the values 7"):
        inspect_split(build_folder(tmp_path), seconds=60)


def test_inspect_split_with_only_ignored_pixels_and_with_many_classes(tmp_path):
    make_pairs(tmp_path, *SPLIT_FOLDERS, stems=["a"])
    save(tmp_path / "labels/train/a.png", np.full((6, 8), 255, np.uint8))
    report = inspect_split(build_folder(tmp_path))
    assert report.ignored_fraction == 1 and len(report.warnings()) == 1 and "all pixels are ignored" in report.warnings()[0]
    save(tmp_path / "labels/train/a.png", np.array([[256] * 8] * 6, np.uint16))
    names = (*[f"c{i}" for i in range(255)], "ignore", "last")
    assert inspect_split(build_folder(tmp_path, classes=names)).class_fractions["last"] == 1
