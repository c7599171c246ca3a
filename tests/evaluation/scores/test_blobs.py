"""Inspection scores on planted defects whose recall is known, and against SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scored_maps import add_image, blocks

from segzoo.evaluation.scores.blobs import THRESHOLDS, Blobs
from segzoo.evaluation.scores.build import build_scores
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo

CLASSES = ("background", "pit", "scratch")
INFO = DatasetInfo("parts", CLASSES, ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


def make(overlaps=(0.1, 0.5), min_pixels=1, recall=0.95, curve=False, classes=CLASSES, defects=(1, 2)):
    return Blobs(classes, 255, defects, overlaps, min_pixels, recall, curve)


def planted():
    """Four images: two pits and a scratch, a missed pit, a good part that is rejected, and a good part."""
    labels, preds = np.zeros((4, 40, 50), np.uint8), np.zeros((4, 40, 50), np.uint8)
    labels[0, 2:12, 2:12] = 1  # a pit of 100 pixels, of which 40 are predicted
    preds[0, 2:12, 8:12] = 1
    labels[0, 20:24, 20:25] = 1  # a pit of 20 pixels, of which 5 are predicted, in a blob of 50
    preds[0, 23:33, 20:25] = 1
    labels[0, 30:31, 30:40] = 2  # a scratch, predicted exactly
    preds[0, 30:31, 30:40] = 2
    labels[1, 5:8, 5:8] = 1  # a pit of 9 pixels, missed
    preds[2, 10:12, 10:13] = 1  # a false pit
    labels[3, 0:5, 0:5], preds[3, 0:5, 0:5] = 255, 2  # a scratch where nothing is known
    return list(zip(preds, labels, strict=True))


def updated(score, pairs, probabilities=None):
    for index, (pred, label) in enumerate(pairs):
        add_image(score, index, pred, label, None if probabilities is None else probabilities[index])
    return score


def test_planted_blobs():
    result = updated(make(), planted()).result()
    values = result.values
    assert values["per_class"]["pit"] == {
        "blobs": 3,
        "predicted_blobs": 3,
        "recall": {"0.1": 2 / 3, "0.5": 0.0},
        "precision": {"0.1": 2 / 3, "0.5": 1 / 3},  # 40 of 40, 5 of 50, 0 of 6
        "smallest_found": 20,
        "largest_missed": 9,
    }
    assert values["per_class"]["scratch"]["recall"] == values["per_class"]["scratch"]["precision"] == {"0.1": 1.0, "0.5": 1.0}
    assert values["images"] == 4 and values["defective_images"] == 2 and values["missed_images"] == 1
    assert values["reject_rate"] == 0.5 and values["false_rejects_per_1000"] == 500 and values["thresholds"] is None
    rows = result.tables["labeled_blobs.csv"]
    assert rows[0] == ["image", "class", "left", "top", "width", "height", "pixels", "covered"]
    assert rows[1:] == [
        ["image0", "pit", 2, 2, 10, 10, 100, 0.4],
        ["image0", "pit", 20, 20, 5, 4, 20, 0.25],
        ["image0", "scratch", 30, 30, 10, 1, 10, 1.0],
        ["image1", "pit", 5, 5, 3, 3, 9, 0.0],
    ]
    assert result.lines[0] == "pit: 66.7 % of 3 blobs found and 66.7 % of 3 predicted ones right at an overlap of 0.1"
    assert result.lines[-1] == "images: 50.0 % rejected, 1 defective ones missed, 500.0 false rejects per 1000 good images"


def test_small_predicted_blobs_can_be_left_out():
    values = updated(make(min_pixels=7), planted()).result().values
    assert values["false_rejects_per_1000"] == 0 and values["per_class"]["pit"]["predicted_blobs"] == 2
    values = updated(make(min_pixels=41), planted()).result().values
    assert values["per_class"]["pit"]["recall"]["0.1"] == pytest.approx(1 / 3)  # the blob of 40 pixels no longer covers anything


def test_diagonal_pixels_are_one_blob():
    label = np.eye(6, dtype=np.uint8)
    assert updated(make(), [(label, label)]).result().values["per_class"]["pit"]["blobs"] == 1


def planted_curve():
    """Twenty pits with the probabilities 0.05 to 1.00, and nineteen false ones with 0.01 to 0.19, one per good image."""
    pairs, probabilities = [], []
    for number in range(1, 21):
        label, pit = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.float32)
        label[4:8, 4:8] = 1
        pit[4:8, 4:8] = number / 20
        pairs.append((np.zeros_like(label), label))
        probabilities.append(np.stack([1 - pit, pit, np.zeros_like(pit)]))
    for number in range(1, 20):
        pit = np.zeros((12, 12), np.float32)
        pit[1:3, 1:3] = number / 100
        pairs.append((np.zeros((12, 12), np.uint8),) * 2)
        probabilities.append(np.stack([1 - pit, pit, np.zeros_like(pit)]))
    return pairs, probabilities


def test_the_operating_curve_of_planted_probabilities():
    result = updated(make(curve=True, recall=0.9), *planted_curve()).result()
    rows = [row for row in result.tables["operating_curve.csv"] if row[0] == "pit"]
    header = result.tables["operating_curve.csv"][0]
    assert len(rows) == 99 and len(result.tables["operating_curve.csv"]) == 1 + 3 * 99
    for percent, row in enumerate(rows, 1):
        point = dict(zip(header, row, strict=True))
        found, false = sum(5 * number >= percent for number in range(1, 21)), sum(number >= percent for number in range(1, 20))
        assert point["threshold"] == percent / 100 and point["recall 0.1"] == point["recall 0.5"] == found / 20
        assert point["precision 0.1"] == found / (found + false) and point["missed_images"] == 20 - found
        assert point["false_rejects_per_1000"] == pytest.approx(1000 * false / 19)
        assert point["reject_rate"] == pytest.approx((found + false) / 39)
    chosen = result.values["thresholds"]["pit"]["0.1"]
    assert chosen["threshold"] == 0.15 and chosen["recall"] == 0.9  # 18 of 20 have at least 0.15
    assert chosen["false_rejects_per_1000"] == pytest.approx(1000 * 5 / 19) and chosen["precision"] == 18 / 23
    assert result.values["thresholds"]["scratch"] == {"0.1": None, "0.5": None}  # none is labeled
    assert "'threshold={pit:0.15}' finds 90.0 % of pit" in result.lines[-1]
    any_defect = [row[2:] for row in result.tables["operating_curve.csv"] if row[0] == "any defect"]
    assert [row[4:] for row in any_defect] == [row[6:] for row in rows] and any_defect[0][:4] == [None] * 4


def test_an_unreachable_recall_has_no_threshold():
    pairs, probabilities = planted_curve()
    result = updated(make(curve=True, recall=1.0), pairs + pairs[:1], [*probabilities, np.zeros_like(probabilities[0])]).result()
    assert result.values["thresholds"]["pit"]["0.1"] is None and result.lines[-1] == "no threshold from 0.01 finds 100.0 % of pit"


def test_every_point_equals_a_prediction_with_that_threshold_and_scipy():
    rng, pairs, probabilities = np.random.default_rng(0), [], []
    for seed in range(4):
        pred, label = blocks(seed, ignored=True)
        noise = ndimage.gaussian_filter(rng.normal(0, 6, (3, *label.shape)), (0, 2, 2)) + 2 * (pred == np.arange(3)[:, None, None])
        exponential = np.exp(noise)
        probabilities.append((exponential / exponential.sum(0)).astype(np.float32))
        pairs.append((pred, label))
    curve = updated(make(curve=True, min_pixels=3), pairs, probabilities).curve
    assert curve is not None
    for point in (0, 20, 49, 80, 98):
        expected = np.zeros((3, 2), int)
        for (_, label), maps in zip(pairs, probabilities, strict=True):
            pred = (maps[1] >= np.float32(THRESHOLDS[point])) & (label != 255)
            expected += by_scipy(pred, label == 1, 3)
        found, correct, totals = expected
        assert curve.found[0, :, point].tolist() == found.tolist() and curve.correct[0, :, point].tolist() == correct.tolist()
        assert [curve.blobs[0], curve.predicted[0, point]] == totals.tolist()
        assert point == 98 or 0 < found[0] < totals[0] + 1


def by_scipy(pred, label, min_pixels, overlaps=(0.1, 0.5)):
    """Found and right blobs at both overlaps, and the numbers of labeled and predicted ones."""
    find: Any = ndimage.label  # typed as an int or a pair
    labeled, num_labeled = find(label, np.ones((3, 3)))
    blobs, num_blobs = find(pred, np.ones((3, 3)))
    kept = [number for number in range(1, num_blobs + 1) if (blobs == number).sum() >= min_pixels]
    pred = np.isin(blobs, kept)
    recalls = [pred[labeled == number].mean() for number in range(1, num_labeled + 1)]
    precisions = [label[blobs == number].mean() for number in kept]
    counts = [[sum(value >= overlap for value in values) for overlap in overlaps] for values in (recalls, precisions)]
    return np.array([*counts, [num_labeled, len(kept)]])


def test_ranks_and_order_change_nothing():
    pairs, probabilities = planted_curve()
    images: list[Any] = [(index, *pair, maps) for index, (pair, maps) in enumerate(zip(pairs, probabilities, strict=True))]
    one, two, whole = (make(curve=True) for _ in range(3))
    for score, part in ((one, images[::-2]), (two, images[1::2]), (whole, images)):
        for image in part:
            add_image(score, *image)
    one.merge(two)
    assert one.result() == whole.result()


def test_defects_are_all_classes_but_the_background_or_those_named():
    assert build_scores(INFO, scores=("blobs",))[0].defects == (1, 2)  # type: ignore[attr-defined]
    assert build_scores(INFO, scores=("blobs", "blobs"), defects=("scratch",))[0].defects == (2,)  # type: ignore[attr-defined]
    street = DatasetInfo("street", ("sky", "road"), INFO.palette[:2])
    with pytest.raises(ConfigError, match=r"no class is the background. Set them, such as 'defects=\[road\]'"):
        build_scores(street, scores=("blobs",))
    with pytest.raises(ConfigError, match="defects: the class 'scrath' is not known. Did you mean 'scratch'"):
        build_scores(INFO, scores=("blobs",), defects=("scrath",))
    with pytest.raises(ConfigError, match="defects is empty"):
        build_scores(INFO, scores=("blobs",), defects=())
    with pytest.raises(ConfigError, match="trimap_widths is empty"):
        build_scores(INFO, trimap_widths=())
