"""Cityscapes: label ids, train ids and missing files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_files import noise, save, settings_from

from segzoo.registry import DATA
from segzoo.types import IGNORE, DataError


def make_city(root: Path, split: str = "train", kind: str = "labelIds", city: str = "ulm", top: int = 34) -> np.ndarray:
    stem = f"{split}/{city}/{city}_000000_000019"
    save(root / f"leftImg8bit/{stem}_leftImg8bit.png", noise(8, 16))
    raw = np.arange(128, dtype=np.uint8).reshape(8, 16) % top
    save(root / f"gtFine/{stem}_gtFine_{kind}.png", raw)
    save(root / f"gtFine/{stem}_gtFine_instanceIds.png", raw)
    return raw


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    raw = make_city(tmp_path)
    make_city(tmp_path, city="aachen")
    name, options = settings_from("cityscapes", root=str(tmp_path))
    data = DATA.build(name, "train", **options)
    assert [data.name(i) for i in range(len(data))] == ["aachen/aachen_000000_000019", "ulm/ulm_000000_000019"]
    label = data[1].label
    evaluated = [
        7,
        8,
        11,
        12,
        13,
        17,
        19,
        20,
        21,
        22,
        23,
        24,
        25,
        26,
        27,
        28,
        31,
        32,
        33,
    ]  # the 19 classes of the benchmark, in order
    for train, label_id in enumerate(evaluated):
        assert (label[raw == label_id] == train).all()
    assert (label[~np.isin(raw, evaluated)] == IGNORE).all()
    assert data.info.classes[0] == "road" and data.info.classes[18] == "bicycle" and data.info.palette[13] == (0, 0, 142)


def test_cityscapes_prefers_train_ids_and_checks_values_against_file_names(tmp_path):
    make_city(tmp_path)
    name, options = settings_from("cityscapes", root=str(tmp_path))
    save(tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png", np.full((8, 16), 18, np.uint8))
    assert (DATA.build(name, "train", **options)[0].label == 18).all()
    assert (DATA.build(name, "train", **options | {"labels": "labelIds"})[0].label != 18).any()
    make_city(tmp_path, kind="labelTrainIds")
    with pytest.raises(
        DataError, match=r"labelTrainIds\.png: holds the values 19 .*saved under the wrong name.*data.labels=labelIds"
    ):
        DATA.build(name, "train", **options)[0]
    save(tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png", np.full((8, 16), 255, np.uint8))
    with pytest.raises(
        DataError, match=r"labelIds\.png: holds the values 255 \(128 pixels\).*train ids saved under the wrong name"
    ):
        DATA.build(name, "train", **options | {"labels": "labelIds"})[0]


def test_cityscapes_missing_files(tmp_path):
    name, options = settings_from("cityscapes", root=str(tmp_path))
    with pytest.raises(DataError, match="gtFine/train is not a folder"):
        len(DATA.build(name, "train", **options))
    make_city(tmp_path)
    (tmp_path / "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"1 of 1 pairs have no label gtFine.*labelIds.*Unpack .*gtFine_trainvaltest\.zip"):
        len(DATA.build(name, "train", **options))
    with pytest.raises(DataError, match="gtFine/test is not a folder"):
        len(DATA.build(name, "test", **options))
