"""Label maps in the form of the test servers."""

from __future__ import annotations

import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from predictions import predict_source
from toy_training import Toy, ToyData

from segzoo.inference.submission import make_submission
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo


def info(*classes: str) -> DatasetInfo:
    return DatasetInfo("x", classes, tuple((number, 0, 0) for number in range(len(classes))))


def test_cityscapes_takes_label_ids_in_grayscale(tmp_path):
    names = ("bicycle", "road", "train")
    submission = make_submission(info(*names), "cityscapes")
    assert submission is not None
    submission.write_label(tmp_path / "labels/berlin_000000_000019_leftImg8bit.png", np.array([[0, 1], [2, 1]]))
    packed = submission.pack(tmp_path, [tmp_path / "labels/berlin_000000_000019_leftImg8bit.png"], [])
    assert packed["skipped"] == []
    with zipfile.ZipFile(packed["submission"]) as archive:
        assert archive.namelist() == ["berlin_000000_000019_leftImg8bit.png"]
        image = Image.open(io.BytesIO(archive.read(archive.namelist()[0])))
    assert image.mode == "L" and np.array(image).tolist() == [[33, 7], [31, 7]]


def test_voc_takes_palette_images_in_its_folders(tmp_path):
    submission = make_submission(info("background", "tvmonitor", "aeroplane"), "voc")
    assert submission is not None
    submission.write_label(tmp_path / "labels/2008_000006.png", np.array([[0, 1], [2, 1]]))
    submission.write_label(tmp_path / "labels/a/photo.png", np.array([[1]]))
    packed = submission.pack(tmp_path, [tmp_path / "labels/2008_000006.png", tmp_path / "labels/a/photo.png"], ["x"])
    assert (
        packed["skipped"][0] == "x" and "1 images are not named as the server of voc expects (2008_000006)" in packed["skipped"][1]
    )
    with tarfile.open(packed["submission"]) as archive:
        folder = "results/VOC2012/Segmentation/comp6_test_cls"
        assert archive.getnames() == [f"{folder}/2008_000006.png", f"{folder}/a/photo.png"]
        file = archive.extractfile(archive.getnames()[0])
        assert file is not None
        image = Image.open(io.BytesIO(file.read()))
    assert image.mode == "P" and np.array(image).tolist() == [[0, 20], [1, 20]]
    assert np.array(image.convert("RGB")).tolist() == [[[0, 0, 0], [0, 64, 128]], [[128, 0, 0], [0, 64, 128]]]


def test_classes_that_a_server_does_not_know_are_named():
    with pytest.raises(ConfigError, match="format=voc: the class 'aeroplan' is not known. Did you mean 'aeroplane'"):
        make_submission(info("background", "aeroplan"), "voc")
    assert make_submission(info("any", "thing"), "index") is make_submission(info("any", "thing"), "color") is None


def test_a_prediction_packs_its_archive(tmp_path):
    data = ToyData(2)
    for number in range(2):
        save = tmp_path / f"images/berlin_000000_00000{number}_leftImg8bit.png"
        save.parent.mkdir(exist_ok=True)
        Image.fromarray(data[number].image).save(save)
    classes = ("road", "sky", "car", "person", "rider")[: data.info.num_classes]
    result = predict_source(Toy(), info(*classes), tmp_path / "out", tmp_path / "images", format="cityscapes")
    with zipfile.ZipFile(result["submission"]) as archive:
        assert len(archive.namelist()) == 2
    values = {int(value) for path in (tmp_path / "out/labels").iterdir() for value in np.unique(np.array(Image.open(path)))}
    assert values <= {7, 23, 26, 24, 25} and not result["skipped"]
