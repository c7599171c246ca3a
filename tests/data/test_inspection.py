"""Blobs of label maps, and regions whose prediction contradicts the label."""

from __future__ import annotations

import numpy as np
import pytest

from segzoo.data.inspection.blobs import class_blobs, find_blobs
from segzoo.data.inspection.label_errors import ClassConfidence, contradicting_regions, region_score
from segzoo.types import DatasetInfo

INFO = DatasetInfo("test", ("background", "a", "b"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
SIZE = (100, 200)


def probabilities(predicted: np.ndarray, certainty: float = 0.9) -> np.ndarray:
    """One-hot class probabilities (K, H, W), softened."""
    rest = (1 - certainty) / (INFO.num_classes - 1)
    return np.where(np.arange(INFO.num_classes)[:, None, None] == predicted, certainty, rest).astype(np.float32)


def rectangle(top: int, left: int, height: int, width: int, value: int = 1, size=SIZE) -> np.ndarray:
    label = np.zeros(size, np.uint8)
    label[top : top + height, left : left + width] = value
    return label


def test_blobs_are_8_connected_and_ignored_pixels_belong_to_none():
    label = np.array([[1, 0, 0, 255], [0, 1, 0, 255], [0, 0, 0, 1]], np.uint8)
    blobs = dict(class_blobs(label, INFO))
    assert sorted(blobs) == [0, 1]
    assert blobs[1].areas.tolist() == [2, 1] and blobs[1].boxes.tolist() == [[0, 0, 2, 2], [3, 2, 1, 1]]
    assert blobs[0].areas.tolist() == [7]
    assert not len(find_blobs(np.zeros((3, 4), bool)).areas)


def test_an_object_that_is_not_labeled_is_one_region():
    regions = contradicting_regions(np.zeros(SIZE, np.uint8), probabilities(rectangle(20, 30, 10, 16)), INFO)
    assert len(regions) == 1
    region = regions[0]
    assert (region.label, region.prediction, region.box, region.pixels) == (0, 1, (30, 20, 16, 10), 160)
    assert region.area == 160 / 20_000 and region.coverage == 1
    assert region.label_probability == pytest.approx(0.05) and region.predicted_probability == pytest.approx(0.9)


def test_a_swapped_class_is_a_region_up_to_its_outline():
    label = rectangle(20, 30, 10, 16, value=2)
    region = contradicting_regions(label, probabilities(rectangle(20, 30, 10, 16)), INFO, boundary=3)[0]
    assert (region.label, region.prediction, region.pixels) == (2, 1, 160)


@pytest.mark.parametrize(("shift", "expected"), [(0, 0), (3, 0), (4, 2)])
def test_boundaries_are_tolerated_up_to_the_width(shift, expected):
    predicted = probabilities(rectangle(20, 30 + shift, 10, 16))
    assert len(contradicting_regions(rectangle(20, 30, 10, 16), predicted, INFO, boundary=3)) == expected


def test_the_default_tolerance_is_a_hundredth_of_the_longer_side():
    label, predicted = rectangle(20, 30, 10, 16), [probabilities(rectangle(20, 30 + shift, 10, 16)) for shift in (2, 3)]
    assert [len(contradicting_regions(label, one, INFO)) for one in predicted] == [0, 2]


def test_ignored_pixels_contradict_nothing():
    label = np.full(SIZE, INFO.ignore, np.uint8)
    assert contradicting_regions(label, probabilities(rectangle(20, 30, 10, 16)), INFO) == []


def test_small_regions_are_left_out():
    predicted = probabilities(np.maximum(rectangle(20, 30, 10, 16), rectangle(60, 30, 2, 2)))
    label = np.zeros(SIZE, np.uint8)
    assert [r.pixels for r in contradicting_regions(label, predicted, INFO)] == [160, 4]
    assert [r.pixels for r in contradicting_regions(label, predicted, INFO, min_area=5 / label.size)] == [160]


def test_class_confidence_is_the_mean_probability_of_the_label():
    confidence = ClassConfidence(3)
    label = rectangle(0, 0, 100, 100)
    label[:, 150:] = INFO.ignore
    confidence.add(label, probabilities(np.zeros(SIZE, np.uint8), 0.8), INFO)
    assert confidence.means() == pytest.approx([0.8, 0.1, (0.8 * 50 + 0.1 * 100) / 150])


def score_of(label: np.ndarray, predicted: np.ndarray, certainty: float = 0.9, confidence=(0.9, 0.9, 0.9)) -> float:
    regions = contradicting_regions(label, probabilities(predicted, certainty), INFO)
    return max((region_score(region, np.array(confidence)) for region in regions), default=0.0)


def test_confident_contradictions_score_higher():
    label, predicted = np.zeros(SIZE, np.uint8), rectangle(20, 30, 10, 16)
    assert score_of(label, predicted, 0.9) > score_of(label, predicted, 0.6) > 0
    assert score_of(label, np.zeros(SIZE, np.uint8)) == 0


def test_a_class_that_is_rarely_recognized_scores_lower():
    label, predicted = rectangle(20, 30, 10, 16, value=2), rectangle(20, 30, 10, 16)
    assert score_of(label, predicted) > score_of(label, predicted, confidence=(0.9, 0.9, 0.3))


def test_a_whole_object_scores_above_a_part_of_a_larger_one():
    large = rectangle(0, 0, 100, 150)
    without_corner = large.copy()
    without_corner[40:50, 130:150] = 0
    assert score_of(np.zeros(SIZE, np.uint8), rectangle(40, 130, 10, 18)) > 2 * score_of(large, without_corner) > 0
