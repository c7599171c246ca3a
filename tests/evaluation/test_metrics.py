"""The confusion matrix against scikit-learn and torchmetrics, and the conventions they do not share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.types import DataError

NAMES = tuple("abcdefghijklmnopqrst")


def random_maps(classes: int, seed: int, shape=(3, 9, 11), ignored=0.2):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape, dtype=np.uint8)
    pred = np.where(rng.random(shape) < 0.5, label, rng.integers(0, classes, shape)).astype(np.uint8)
    return pred, np.where(rng.random(shape) < ignored, 255, label).astype(np.uint8)


def confusion(pred, label, classes, ignore=255):
    matrix = ConfusionMatrix(classes, ignore)
    matrix.update(pred, label)
    return matrix


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(st.integers(1, 20), st.integers(0, 10**6), st.sampled_from(["uint8", "int32", "int64", "uint16"]))
@settings(max_examples=60, deadline=None)
def test_equals_sklearn_for_every_type(classes, seed, dtype):
    pred, label = random_maps(classes, seed)
    keep = label != 255
    expected = confusion_matrix(label[keep], pred[keep], labels=range(classes)) if keep.any() else np.zeros((classes, classes))
    matrix = confusion(pred.astype(dtype), label.astype(dtype), classes).matrix
    assert matrix.dtype == np.int64 and np.array_equal(matrix, expected)


@given(st.integers(0, 10**6), st.integers(1, 98))
@settings(max_examples=30, deadline=None)
def test_order_batching_and_merging_change_nothing(seed, cut):
    pred, label = random_maps(7, seed)
    order = np.random.default_rng(seed).permutation(pred.size)
    parts = [order[:cut], order[cut:]]
    one, two = (confusion(pred.ravel()[part], label.ravel()[part], 7) for part in parts)
    whole = confusion(torch.from_numpy(pred), torch.from_numpy(label), 7)
    one.merge(torch.from_numpy(two.matrix))
    assert np.array_equal(one.matrix, whole.matrix)
    two.merge(two)
    assert two.matrix.sum() == 2 * (label.ravel()[order[cut:]] != 255).sum()


def test_scores_equal_torchmetrics_when_every_class_is_labeled():
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    pred, label = (torch.from_numpy(array.astype(np.int64)) for array in random_maps(11, 5, (2, 60, 80)))
    scores = confusion(pred, label, 11).scores(NAMES[:11], images=2)
    options: Any = {"num_classes": 11, "ignore_index": 255}
    assert scores.miou == pytest.approx(float(MulticlassJaccardIndex(**options)(pred, label)), abs=1e-6)
    assert scores.macc == pytest.approx(float(MulticlassAccuracy(**options, average="macro")(pred, label)), abs=1e-6)
    assert scores.aacc == pytest.approx(float(MulticlassAccuracy(**options, average="micro")(pred, label)), abs=1e-6)
    assert scores.fwiou == pytest.approx(float(MulticlassJaccardIndex(**options, average="weighted")(pred, label)), abs=1e-6)
    per_class = MulticlassJaccardIndex(**options, average="none")(pred, label)
    assert [scores.per_class[name]["iou"] for name in NAMES[:11]] == pytest.approx(per_class.tolist(), abs=1e-6)


def test_scores_by_hand_with_an_absent_class():
    label = np.array([[0, 0, 0, 1], [1, 1, 255, 255]], np.uint8)
    pred = np.array([[0, 0, 2, 1], [1, 0, 2, 2]], np.uint8)  # class 2 is predicted but never labeled, class 3 is neither
    scores = confusion(pred, label, 4).scores(("a", "b", "c", "d"), images=1, loss=0.5)
    assert scores.per_class["a"] == {"iou": 2 / 4, "acc": 2 / 3, "pixels": 3, "precision": 2 / 3, "f1": 2 / 3}
    assert scores.per_class["b"] == {"iou": 2 / 3, "acc": 2 / 3, "pixels": 3, "precision": 1.0, "f1": 4 / 5}
    absent = {"iou": None, "acc": None, "pixels": 0, "precision": None, "f1": None}
    assert scores.per_class["c"] == scores.per_class["d"] == absent
    assert scores.classes_present == 2 and scores.images == 1 and scores.loss == 0.5
    assert scores.miou == pytest.approx((1 / 2 + 2 / 3) / 2) and scores.macc == pytest.approx(2 / 3)
    assert scores.aacc == pytest.approx(4 / 6) and scores.fwiou == pytest.approx((3 / 2 + 3 * 2 / 3) / 6)


def test_precision_and_f1_equal_sklearn():
    pred, label = random_maps(6, 3)
    pred[pred == 4] = 5  # class 4 is labeled but never predicted
    scores = confusion(pred, label, 6).scores(NAMES[:6], images=3)
    keep = label != 255
    oracle: Any = precision_recall_fscore_support(label[keep], pred[keep], zero_division=np.nan)  # type: ignore[arg-type]
    precision, recall, f1, _ = oracle
    for k, entry in enumerate(scores.per_class.values()):
        assert entry["acc"] == pytest.approx(recall[k]) and entry["f1"] == pytest.approx(0 if k == 4 else f1[k])
        assert entry["precision"] == (None if k == 4 else pytest.approx(precision[k]))


def test_the_background_is_left_out_of_its_own_mean():
    label, pred = np.array([[0, 0, 1, 2, 2]]), np.array([[0, 0, 1, 1, 2]])
    matrix = confusion(label=label, pred=pred, classes=4)
    scores = matrix.scores(("background", "pit", "crack", "dent"), images=1)
    assert scores.miou == pytest.approx((1 + 1 / 2 + 1 / 2) / 3) and scores.miou_foreground == pytest.approx(1 / 2)
    assert matrix.scores(("sky", "pit", "crack", "dent"), images=1).miou_foreground is None
    only_background = confusion(label=label * 0, pred=pred, classes=4).scores(("background", "pit", "crack", "dent"), images=1)
    assert only_background.miou_foreground is None


def test_predicting_an_absent_class_costs_a_pixel_not_a_class():
    label = np.zeros((10, 10), np.uint8)
    pred = label.copy()
    pred[0, 0] = 1
    assert confusion(pred, label, 2).scores(("a", "b"), images=1).miou == pytest.approx(0.99)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_values_out_of_range_are_named(dtype):
    good = np.zeros((2, 2), dtype)
    with pytest.raises(ValueError, match=r"predictions contain 3, 255; expected 0\.\.2"):
        confusion(np.array([[3, 0], [255, 1]], dtype), good, 3)
    with pytest.raises(ValueError, match=r"labels contain 37; expected train ids 0\.\.2, or 255"):
        confusion(good, np.array([[37, 255], [0, 1]], dtype), 3)
    with pytest.raises(ValueError, match="predictions contain 3"):  # also at an ignored pixel
        confusion(np.array([[3]], dtype), np.array([[255]], dtype), 3)


def test_negative_values_are_named():
    with pytest.raises(ValueError, match="labels contain -1"):
        confusion(np.array([0]), np.array([-1]), 3)
    with pytest.raises(ValueError, match="predictions contain -2"):
        confusion(np.array([-2]), np.array([0]), 3)
    assert confusion(np.array([0, 1]), np.array([-1, 1]), 3, ignore=-1).matrix.sum() == 1


def test_a_rejected_update_counts_nothing():
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError):
        matrix.update(np.array([0, 1, 9], np.uint8), np.array([0, 1, 2], np.uint8))
    assert matrix.matrix.sum() == 0


def test_other_wrong_input():
    with pytest.raises(TypeError, match="float32; take the argmax"):
        confusion(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.uint8), 3)
    with pytest.raises(ValueError, match="differ in size"):
        confusion(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 3)
    with pytest.raises(ValueError, match="different classes"):
        ConfusionMatrix(3).merge(ConfusionMatrix(4))
    with pytest.raises(ValueError, match="3 different class names"):
        confusion(np.zeros(1, np.uint8), np.zeros(1, np.uint8), 3).scores(("a", "a", "b"), images=1)
    with pytest.raises(ValueError, match=r"outside 0\.\.299, got 255"):
        ConfusionMatrix(300)


def test_no_labeled_pixel_is_an_error_not_a_score():
    with pytest.raises(DataError, match="none of 2 images has a labeled pixel"):
        confusion(np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8), 3).scores(("a", "b", "c"), images=2)


@pytest.mark.parametrize("classes", [255, 300, 5000])
def test_many_classes(classes):
    rng = np.random.default_rng(0)
    label, pred = rng.integers(0, classes, (2, 4000), dtype=np.uint16)
    label[:100] = 65535
    matrix = confusion(pred, label, classes, ignore=65535)
    cells = np.zeros_like(matrix.matrix)
    np.add.at(cells, (label[100:], pred[100:]), 1)
    assert np.array_equal(matrix.matrix, cells)


def test_empty_maps_count_nothing():
    assert confusion(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8), 3).matrix.sum() == 0
    assert confusion(np.zeros((0, 4), np.int64), np.zeros((0, 4), np.int64), 3).matrix.sum() == 0
