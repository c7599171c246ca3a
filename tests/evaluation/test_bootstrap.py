"""Intervals of scores: against the confusion matrix on the same draws, against scikit-learn, and that they cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score
from toy_training import INFO, ToyData, make_parts

from segzoo.evaluation import bootstrap as intervals
from segzoo.evaluation.bootstrap import bootstrap_miou, paired_bootstrap_miou
from segzoo.evaluation.evaluator import evaluate


def counts_of(pred, label, classes=3):
    hits = [((pred == k) & (label == k)).sum() for k in range(classes)]
    return [hits, [(label == k).sum() for k in range(classes)], [(pred == k).sum() for k in range(classes)]]


def drawn(pictures=40, wrong=0.3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (pictures, 50))
    hard = rng.random((pictures, 1)) < 0.5
    preds = np.where(rng.random(labels.shape) < wrong * (1 + hard), rng.integers(0, 3, labels.shape), labels)
    return preds, labels, np.array([counts_of(*pair) for pair in zip(preds, labels, strict=True)])


def test_each_draw_is_the_score_of_the_pictures_drawn(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 20)
    preds, labels, pictures = drawn()
    rng = np.random.default_rng(intervals.SEED)
    wanted = []
    for times in rng.multinomial(40, [1 / 40] * 40, size=20):
        which = np.repeat(np.arange(40), times)
        wanted.append(jaccard_score(labels[which].ravel(), preds[which].ravel(), average="macro"))
    assert bootstrap_miou(pictures) == pytest.approx(tuple(np.percentile(wanted, (2.5, 97.5))))


def test_intervals_cover_the_score_of_all_pictures_of_the_kind():
    preds, labels, pictures = drawn(4000, seed=9)
    truth = jaccard_score(labels.ravel(), preds.ravel(), average="macro")
    inside = [low <= truth <= high for low, high in (bootstrap_miou(part) for part in np.split(pictures, 100))]
    assert 0.85 <= np.mean(inside) <= 1.0


def test_a_pair_is_compared_on_the_same_pictures():
    _, _, better = drawn(wrong=0.25)
    _, _, worse = drawn(wrong=0.30)
    found = paired_bootstrap_miou(better, worse)
    assert 0 < found["low"] < found["difference"] < found["high"]
    alone = [bootstrap_miou(pictures) for pictures in (better, worse)]
    assert found["high"] - found["low"] < sum(high - low for low, high in alone)
    assert paired_bootstrap_miou(better, better) == {"difference": 0.0, "low": 0.0, "high": 0.0}
    with pytest.raises(ValueError, match="score both on the same images"):
        paired_bootstrap_miou(better, worse[:10])


def test_absent_classes_are_left_out():
    pictures = np.zeros((5, 3, 3), np.int64)
    pictures[:, :, 0] = 10  # one class alone, all of it hit
    assert bootstrap_miou(pictures) == (1.0, 1.0)


def test_the_evaluators_pictures_sum_to_its_counts():
    parts = make_parts(train_set=ToyData(5, vary=True))
    found = evaluate(parts.model, parts.train_set, INFO, device="cpu", workers=0)
    hits, labeled, predicted = found.per_image_counts.sum(0)
    assert found.per_image_counts.shape == (5, 3, 3) and found.precision == "fp32"
    assert (hits == found.confusion.diagonal()).all() and (labeled == found.confusion.sum(1)).all()
    assert (predicted == found.confusion.sum(0)).all()
    low, high = bootstrap_miou(found.per_image_counts)
    assert low <= found.scores.miou <= high
