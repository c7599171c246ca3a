"""Calibration against torchmetrics and a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scored_maps import add_image

from segzoo.evaluation.scores.calibration import Calibration


def random_probabilities(seed=0, shape=(20, 30), classes=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (classes, *shape)).astype(np.float32)
    label = np.where(rng.random(shape) < 0.5, logits.argmax(0), rng.integers(0, classes, shape)).astype(np.uint8)
    label[rng.random(shape) < 0.2] = 255
    return torch.from_numpy(logits).softmax(0).numpy(), label


def updated(pairs, bins=15):
    score = Calibration(255, bins)
    for index, (probabilities, label) in enumerate(pairs):
        add_image(score, index, probabilities.argmax(0), label, probabilities)
    return score


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_equals_torchmetrics_and_numpy(bins):
    from torchmetrics.classification import MulticlassCalibrationError

    pairs = [random_probabilities(seed) for seed in range(3)]
    values = updated(pairs, bins).result().values
    flat = np.concatenate([probabilities[:, label != 255] for probabilities, label in pairs], axis=1).T
    labels = np.concatenate([label[label != 255] for _, label in pairs])
    for norm, key in (("l1", "ece"), ("max", "mce")):
        metric = MulticlassCalibrationError(4, n_bins=bins, norm=norm)  # type: ignore[arg-type]
        assert values[key] == pytest.approx(float(metric(torch.from_numpy(flat), torch.from_numpy(labels).long())), abs=1e-6)
    confidence, right = flat.max(1).astype(float), flat.argmax(1) == labels
    ece = 0.0
    for m, row in enumerate(values["bins"]):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        assert row["pixels"] == inside.sum() and row["low"] == m / bins and row["high"] == (m + 1) / bins
        if inside.any():
            assert row["acc"] == pytest.approx(right[inside].mean())
            assert row["confidence"] == pytest.approx(confidence[inside].mean(), abs=1e-6)
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert values["ece"] == pytest.approx(ece, abs=1e-6)
    assert values["acc"] == pytest.approx(right.mean()) and values["confidence"] == pytest.approx(confidence.mean(), abs=1e-6)


def test_a_bin_edge_belongs_to_the_bin_below():
    probabilities = np.array([[[0.5, 0.75, 1.0]], [[0.5, 0.25, 0.0]]], np.float32)
    bins = updated([(probabilities, np.zeros((1, 3), np.uint8))], 4).result().values["bins"]
    assert [row["pixels"] for row in bins] == [0, 1, 1, 1] and bins[0]["acc"] is None
    assert bins[1] == {"low": 0.25, "high": 0.5, "pixels": 1, "confidence": 0.5, "acc": 1.0}


def test_a_calibrated_network_has_no_error_and_an_overconfident_one_its_gap():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, (400, 500)).astype(np.float32)
    label = (rng.random(p.shape) > p).astype(np.uint8)
    probabilities = np.stack([p, 1 - p])
    assert updated([(probabilities, label)]).result().values["ece"] < 0.005
    sharp = np.stack([np.full_like(p, 0.9), np.full_like(p, 0.1)])
    assert updated([(sharp, label)]).result().values["ece"] == pytest.approx(0.9 - (label == 0).mean(), abs=1e-6)


def test_ranks_and_order_change_nothing():
    pairs = [random_probabilities(seed) for seed in range(5)]
    one, two = updated(pairs[::-2]), updated(pairs[1::2])
    one.merge(two)
    assert one.result() == updated(pairs).result()
    table = one.result().tables["calibration.csv"]
    assert table[0] == ["low", "high", "pixels", "confidence", "acc"] and len(table) == 16
