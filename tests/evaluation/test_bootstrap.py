"""Bootstrap intervals against scikit-learn on the same draws, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import jaccard_score
from toy_training import INFO, ToyData, make_components

from segzoo.evaluation import bootstrap
from segzoo.evaluation.bootstrap import MIN_IMAGES, bootstrap_miou, paired_bootstrap_miou
from segzoo.evaluation.evaluator import evaluate


def counts_of(pred, label, classes=3):
    hits = [((pred == k) & (label == k)).sum() for k in range(classes)]
    return [hits, [(label == k).sum() for k in range(classes)], [(pred == k).sum() for k in range(classes)]]


def random_counts(images=40, wrong=0.3, seed=0):
    """Predictions, labels and counts of noisy images, half of which are hard."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, (images, 50))
    hard = rng.random((images, 1)) < 0.5
    preds = np.where(rng.random(labels.shape) < wrong * (1 + hard), rng.integers(0, 3, labels.shape), labels)
    return preds, labels, np.array([counts_of(*pair) for pair in zip(preds, labels, strict=True)])


def scores_of_draws(preds, labels, draws):
    """Scores of the images of each bootstrap draw, by scikit-learn."""
    count, scores = len(labels), []
    for times in np.random.default_rng(bootstrap.SEED).multinomial(count, [1 / count] * count, size=draws):
        indices = np.repeat(np.arange(count), times)
        scores.append(jaccard_score(labels[indices].ravel(), preds[indices].ravel(), average="macro"))
    return np.array(scores)


def test_each_draw_scores_the_images_drawn(monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 20)
    preds, labels, counts = random_counts()
    expected = scores_of_draws(preds, labels, 20)
    assert bootstrap_miou(counts) == pytest.approx(tuple(np.percentile(expected, (2.5, 97.5))))


def test_a_pair_is_compared_draw_by_draw(monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 20)
    (preds, labels, counts), (other_preds, _, other_counts) = random_counts(wrong=0.25), random_counts(wrong=0.3)
    low, high = np.percentile(scores_of_draws(preds, labels, 20) - scores_of_draws(other_preds, labels, 20), (2.5, 97.5))
    whole, other_whole = (jaccard_score(labels.ravel(), maps.ravel(), average="macro") for maps in (preds, other_preds))
    expected = {"difference": whole - other_whole, "low": low, "high": high}
    assert paired_bootstrap_miou(counts, other_counts) == pytest.approx(expected)


def interval(counts) -> tuple[float, float]:
    result = bootstrap_miou(counts)
    assert result is not None
    return result


def test_intervals_cover_the_population_score():
    preds, labels, counts = random_counts(4000, seed=9)
    population = jaccard_score(labels.ravel(), preds.ravel(), average="macro")
    covered = [low <= population <= high for low, high in (interval(sample) for sample in np.split(counts, 100))]
    assert 0.85 <= np.mean(covered) <= 1.0


def test_a_pair_is_compared_on_the_same_images():
    _, _, better = random_counts(wrong=0.25)
    _, _, worse = random_counts(wrong=0.30)
    paired = paired_bootstrap_miou(better, worse)
    assert 0 < paired["low"] < paired["difference"] < paired["high"]
    unpaired = [interval(counts) for counts in (better, worse)]
    assert paired["high"] - paired["low"] < sum(high - low for low, high in unpaired)
    assert paired_bootstrap_miou(better, better) == {"difference": 0.0, "low": 0.0, "high": 0.0}
    with pytest.raises(ValueError, match="score both networks on the same images"):
        paired_bootstrap_miou(better, worse[:10])


def test_absent_classes_are_left_out():
    counts = np.zeros((MIN_IMAGES, 3, 3), np.int64)
    counts[:, :, 0] = 10  # a single class, every pixel hit
    assert bootstrap_miou(counts) == (1.0, 1.0)


def test_per_image_counts_sum_to_the_confusion_matrix():
    components = make_components(train_set=ToyData(10, vary=True))
    result = evaluate(components.model, components.train_set, INFO, device="cpu", workers=0)
    hits, labeled, predicted = result.per_image_counts.sum(0)
    assert result.per_image_counts.shape == (10, 3, 3) and result.precision == "fp32"
    assert (hits == result.confusion.diagonal()).all() and (labeled == result.confusion.sum(1)).all()
    assert (predicted == result.confusion.sum(0)).all()
    assert result.interval is not None and result.interval[0] <= result.scores.miou <= result.interval[1]


def test_few_images_have_no_interval():
    _, _, counts = random_counts(MIN_IMAGES)
    assert bootstrap_miou(counts) is not None and bootstrap_miou(counts[1:]) is None
    assert paired_bootstrap_miou(counts, counts)["high"] == 0
    with pytest.raises(ValueError, match="an interval needs 10 images or more, got 9"):
        paired_bootstrap_miou(counts[1:], counts[1:])
