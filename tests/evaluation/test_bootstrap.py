"""Bootstrap intervals against scikit-learn on the same draws, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import jaccard_score
from toy_training import INFO, ToyData, make_components

from segzoo.evaluation import bootstrap
from segzoo.evaluation.bootstrap import (
    MIN_IMAGES,
    ResampledScores,
    bootstrap_miou,
    mean_iou,
    paired_bootstrap_miou,
    resample,
    sum_groups,
    tail_probability,
)
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


def quantiles(scores, images=40):
    tail = tail_probability(images)
    return tuple(np.quantile(scores, (tail, 1 - tail)))


def test_the_tails_widen_for_few_images():
    # Hesterberg 2015: normal tail beyond sqrt(n / (n - 1)) times the t quantile, which is 2.2622 for 9 degrees of freedom
    assert tail_probability(10) == pytest.approx(norm.sf(2.2622 * np.sqrt(10 / 9)), rel=1e-3)
    assert tail_probability(10**6) == pytest.approx(0.025, rel=1e-4)


def test_each_draw_scores_the_images_drawn(monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 20)
    preds, labels, counts = random_counts()
    expected = scores_of_draws(preds, labels, 20)
    assert bootstrap_miou(counts) == pytest.approx(quantiles(expected))


def test_a_pair_is_compared_draw_by_draw(monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 20)
    (preds, labels, counts), (other_preds, _, other_counts) = random_counts(wrong=0.25), random_counts(wrong=0.3)
    low, high = quantiles(scores_of_draws(preds, labels, 20) - scores_of_draws(other_preds, labels, 20))
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


def simulate(groups: int, frames: int, samples: int = 1000, shared: float = 0.6, seed: int = 1):
    """Simulate counts of two networks on samples from one population.

    Each class is a sample. The hit rates of an image depend on its group, on the image, and on the network.

    Returns:
        Counts (groups * frames, 3, samples) of both networks, and their IoUs on the population.
    """
    rng = np.random.default_rng(seed)

    def rates(images: int, columns: int):
        count = images * frames
        common = np.repeat(rng.normal(0, shared, (images, columns)), frames, 0) + rng.normal(0, 0.5, (count, columns))
        own = np.repeat(rng.normal(0, shared / 2, (images, columns)), frames, 0) + rng.normal(0, 0.3, (count, columns))
        return [1 / (1 + np.exp(-logit)) for logit in (1 + common, 0.8 + common + own)]

    def iou(labeled, rate):
        return (labeled * rate).sum() / (labeled.sum() + (labeled * (1 - rate) / 2).sum())

    labeled = rng.integers(50, 400, (200_000 * frames, 1))
    population = [iou(labeled, rate) for rate in rates(200_000, 1)]
    labeled, counts = rng.integers(50, 400, (groups * frames, samples)), []
    for rate in rates(groups, samples):
        hits = rng.binomial(labeled, rate)
        counts.append(np.stack([hits, labeled, hits + rng.binomial(labeled, (1 - rate) / 2)], axis=1))
    return counts, population


def coverage(scores: ResampledScores, true: float) -> float:
    intervals = [scores.interval(column) for column in range(1, len(scores.values))]
    return float(np.mean([interval[0] <= true <= interval[1] for interval in intervals if interval]))


@pytest.mark.parametrize(("groups", "frames"), [(60, 1), (30, 5)])
def test_intervals_cover_93_to_97_percent(groups, frames):
    """Intervals of a score and of a difference, for 1000 samples."""
    counts, population = simulate(groups, frames)
    names = [str(image // frames) for image in range(groups * frames)]
    first, second = (resample(sum_groups(one, names), draws=1000) for one in counts)
    difference = ResampledScores(first.values - second.values, first.draws - second.draws, first.units)
    assert first.units[0] == groups
    assert 0.93 <= coverage(first, population[0]) <= 0.97
    assert 0.93 <= coverage(difference, population[0] - population[1]) <= 0.97
    if frames > 1:  # frames of one group are not independent
        assert coverage(resample(counts[0], draws=1000), population[0]) < 0.85


def test_p_values_agree_with_the_intervals():
    counts, _ = simulate(30, 1, samples=200)
    first, second = (resample(one, draws=1000) for one in counts)
    difference = ResampledScores(first.values - second.values, first.draws - second.draws, first.units)
    p_values = np.array([difference.p_value(column) for column in range(1, 201)])
    excluded = [interval[0] > 0 or interval[1] < 0 for column in range(1, 201) if (interval := difference.interval(column))]
    decided = abs(p_values - 0.05) > 0.01  # quantiles interpolate between draws
    assert ((p_values < 0.05) == excluded)[decided].all() and decided.sum() > 20 and 20 < sum(excluded) < 180
    same = ResampledScores(first.values * 0, first.draws * 0, first.units)
    assert same.p_value(1) == 1.0


def test_equal_networks_rarely_differ():
    (counts, _), _ = simulate(40, 1)
    other = simulate(40, 1, seed=2)[0][0]  # the same population, other images
    first, second = resample(counts, 1000), resample(other, 1000, seed=1)
    difference = ResampledScores(first.values - second.values, first.draws - second.draws, first.units)
    p_values = np.array([difference.p_value(column) for column in range(1, 1001)])
    assert 0.03 <= (p_values < 0.05).mean() <= 0.07


def test_groups_are_summed():
    counts = np.arange(36).reshape(4, 3, 3)
    assert (sum_groups(counts, ["b", "a", "b", "a"]) == [counts[1] + counts[3], counts[0] + counts[2]]).all()
    assert (sum_groups(counts, ["0", "1", "2", "3"]) == counts).all()


def test_the_first_column_is_the_mean_of_the_present_classes():
    counts = random_counts()[2]
    counts[:, :, 2] = 0  # absent
    scores = resample(counts, draws=50)
    assert np.isnan(scores.values[3]) and scores.units.tolist() == [40, 40, 40, 0]
    assert scores.values[0] == pytest.approx(mean_iou(counts.sum(0))) == pytest.approx(scores.values[1:3].mean())
    assert np.allclose(scores.draws[:, 0], scores.draws[:, 1:3].mean(1))
    assert scores.interval(3) is None and scores.p_value(3) is None


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
