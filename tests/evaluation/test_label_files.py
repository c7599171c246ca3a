"""Scores of label maps that other code has written."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import save
from toy_training import ToyData

from segzoo.evaluation.label_files import evaluate_label_files
from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.types import DataError

DATA = ToyData(12, vary=True)


def write_predictions(folder, wrong: float = 0.2):
    """Write the labels with errors, and count them independently."""
    matrix = np.zeros((3, 3), np.int64)
    for index in range(len(DATA)):
        sample, rng = DATA[index], np.random.default_rng(index)
        pred = np.where(rng.random(sample.label.shape) < wrong, rng.integers(0, 3, sample.label.shape), sample.label % 3).astype(
            np.uint8
        )
        save(folder / f"{sample.name}.png", pred)
        np.add.at(matrix, (sample.label[sample.label < 3], pred[sample.label < 3]), 1)
    return matrix


@pytest.mark.parametrize("below", [".", "labels"])  # a folder of PNGs, an output directory of tools/predict.py
def test_files_are_scored_as_they_are(tmp_path, below):
    matrix = write_predictions(tmp_path / below)
    result = evaluate_label_files(tmp_path, DATA, workers=0)
    assert (result.confusion == matrix).all() and (result.per_image_counts.sum(0)[0] == matrix.diagonal()).all()
    expected = ConfusionMatrix(3)
    expected.matrix = matrix
    assert result.scores == expected.scores(DATA.info.classes, 12)
    assert result.names[:2] == ("toy0", "toy1") and result.protocol["predictions"] == "files" and result.protocol["images"] == 12


def test_missing_and_invalid_files_are_named(tmp_path):
    write_predictions(tmp_path)
    save(tmp_path / "toy3.png", np.full(DATA[3].label.shape, 7, np.uint8))
    with pytest.raises(DataError, match=r"toy3.png: predictions contain 7; expected 0..2"):
        evaluate_label_files(tmp_path, DATA, workers=0)
    save(tmp_path / "toy3.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"toy3.png: prediction \(4, 4\) and label \(24, 37\) differ in size"):
        evaluate_label_files(tmp_path, DATA, workers=0)
    save(tmp_path / "toy3.png", np.zeros((*DATA[3].label.shape, 3), np.uint8))
    with pytest.raises(DataError, match=r"toy3.png"):
        evaluate_label_files(tmp_path, DATA, workers=0)
    (tmp_path / "toy3.png").unlink()
    with pytest.raises(DataError, match=r"1 of 12 images have no file, such as toy3.png. Write one index PNG per image"):
        evaluate_label_files(tmp_path, DATA, workers=0)


def test_images_in_subfolders_are_found_by_the_last_part_of_their_name(tmp_path):
    class Nested(ToyData):
        def name(self, index):
            return f"a/b/{super().name(index)}"

    write_predictions(tmp_path)
    assert evaluate_label_files(tmp_path, Nested(12, vary=True), workers=0).names[3] == "a/b/toy3"
