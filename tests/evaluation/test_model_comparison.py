"""Verdicts on planted differences between models and between seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from segzoo.evaluation.bootstrap import ResampledScores
from segzoo.evaluation.model_comparison import (
    ScoredModel,
    changed_images,
    compare_models,
    difference,
    enough_draws,
    holm,
    seed_spread,
)

IMAGES, CLASSES = 60, 3


def scored_model(name: str, *qualities: float, number: int = 0) -> ScoredModel:
    """Simulate a model with one seed per quality.

    A quality is the logit of the hit rate. All models see the same images, some of which are hard.
    """
    images = np.random.default_rng(0)
    hard, labeled = images.normal(0, 0.6, (IMAGES, 1)), images.integers(100, 400, (IMAGES, CLASSES))
    counts = []
    for seed, quality in enumerate(qualities):
        rng = np.random.default_rng([number, seed])
        rate = 1 / (1 + np.exp(-(quality + hard + rng.normal(0, 0.2, (IMAGES, CLASSES)))))
        hits = rng.binomial(labeled, rate)
        counts.append(np.stack([hits, labeled, hits + rng.binomial(labeled, (1 - rate) / 2)], axis=1))
    return ScoredModel(name, tuple(counts))


def test_a_planted_difference_is_resolved_and_two_equal_models_are_not():
    models = [scored_model("good", 1.3, number=1), scored_model("same", 1.0, number=2), scored_model("equal", 1.0, number=3)]
    pairs = compare_models(models, [(0, 1), (1, 2), (2, 0)], draws=1000).pairs
    assert [pair.is_resolved() for pair in pairs] == [True, False, True]
    intervals = [pair.difference.interval() or (np.nan, np.nan) for pair in pairs]
    assert intervals[0][0] > 0 and intervals[1][0] < 0 < intervals[1][1] and intervals[2][1] < 0
    assert pairs[0].difference.values[0] > 0.03 and all(pairs[0].is_resolved(column) for column in range(1, 1 + CLASSES))
    assert not pairs[1].is_resolved(1)


def test_two_seeds_of_one_model_are_not_resolved():
    """Even if their networks clearly differ on these images."""
    seeds = [scored_model("seed 0", 1.0, number=1), scored_model("seed 1", 1.2, number=2)]
    as_models, as_seeds = (compare_models(seeds, [(0, 1)], 1000, are_seeds=flag).pairs[0] for flag in (False, True))
    assert as_models.is_resolved() and as_models.p_values[0] < 0.01
    assert not as_seeds.is_resolved() and as_seeds.p_values[0] > 0.2
    assert as_seeds.difference.values[0] == as_models.difference.values[0]


def test_the_spread_over_seeds_decides_what_is_resolved():
    wide = [scored_model("a", 0.8, 1.2, 1.0, number=1), scored_model("b", 0.9, 1.3, 1.1, number=2)]
    narrow = [scored_model("a", 1.0, 1.0, 1.0, number=1), scored_model("b", 1.2, 1.2, 1.2, number=2)]
    assert not compare_models(wide, [(0, 1)], 1000).pairs[0].is_resolved()
    compared = compare_models(narrow, [(1, 0)], 1000)
    assert compared.pairs[0].is_resolved() and compared.spread and compared.spread.freedom == 4
    single = compare_models([wide[0], scored_model("b", 1.1, number=2)], [(0, 1)], 1000)  # borrows the spread of the other model
    assert single.spread and single.spread.freedom == 2 and not single.pairs[0].is_resolved()


def test_intervals_cover_the_difference_of_expected_scores_over_seeds():
    """Pairs of models with three seeds each, a pair per column."""
    rng, columns, draws = np.random.default_rng(0), 2000, 1000

    def seeds(expected: float) -> list[ResampledScores]:
        error = rng.normal(0, 0.01, columns)  # of the sample of images, which the bootstrap estimates
        drawn = rng.normal(0, 0.01, (draws, columns))
        return [
            ResampledScores(value, value + drawn, np.full(columns, 200))
            for value in expected + error + rng.normal(0, 0.02, (3, columns))
        ]

    first, second = seeds(0.7), seeds(0.6)
    compared = difference(first, second, seed_spread([first, second]))
    intervals = np.array([compared.interval(column) for column in range(columns)])
    assert 0.93 <= ((intervals[:, 0] <= 0.1) & (intervals[:, 1] >= 0.1)).mean() <= 0.97


def test_the_pooled_spread_is_that_of_the_deviations():
    values = [[0.1, 0.3], [0.5, 0.6, 0.7]]
    models = [[ResampledScores(np.array([value]), np.zeros((1, 1)), np.ones(1)) for value in seeds] for seeds in values]
    spread = seed_spread(models)
    assert spread is not None and spread.freedom == 3 and spread.deviation[0] == pytest.approx(np.sqrt((0.02 + 0.02) / 3))
    assert seed_spread([seeds[:1] for seeds in models]) is None


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, np.nan, 0.9])) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert holm(np.array([np.nan])) == pytest.approx([np.nan], nan_ok=True)


def test_more_pairs_need_smaller_p_values():
    models = [scored_model(str(number), 1.0, number=number) for number in range(5)]
    pairs = [(first, second) for first in range(5) for second in range(first)]
    alone = [compare_models(models, [pair], 1000).pairs[0].p_values[0] for pair in pairs]
    together = [pair.p_values[0] for pair in compare_models(models, pairs, 1000).pairs]
    assert min(together) == pytest.approx(min(1, 10 * min(alone))) and (np.array(together) >= alone).all()


def test_images_that_changed_most_come_first():
    first = scored_model("first", 1.0, 1.1, number=1)
    changed = [counts.copy() for counts in first.counts]
    for counts in changed:
        counts[7, 0], counts[7, 2] = counts[7, 1], counts[7, 1]  # perfect
        counts[3, 0] = 0
    second = ScoredModel("second", tuple(changed))
    images = changed_images(first, second, 5)
    assert [image for image, _, _ in images] == [3, 7]
    assert images[0][2] == 0 and images[1][2] == 1 and 0 < images[1][1] < 1


def test_models_on_other_images_are_drawn_independently():
    first, second = scored_model("first", 1.0), scored_model("first", 1.0)
    other = ScoredModel("second", second.counts, image_set="other")
    paired, unpaired = (compare_models([first, model], [(0, 1)], 1000).pairs[0].difference for model in (second, other))
    assert paired.interval() == (0, 0) and (unpaired.interval() or (0, 0))[1] > 0.01


def test_evaluations_of_the_same_networks_have_no_spread_over_seeds():
    plain = replace(scored_model("plain", 0.8, 1.2, number=1), networks=("a", "b"))
    refined = ScoredModel("refined", tuple(_with_more_hits(counts) for counts in plain.counts), networks=("b", "a"))
    other = scored_model("other", 0.9, 1.3, number=2)
    compared = compare_models([plain, refined, other], [(1, 0), (2, 0)], 1000)
    assert compared.pairs[0].is_resolved() and not compared.pairs[1].is_resolved()
    alone = compare_models([plain, other], [(1, 0)], 1000)
    assert compared.spread is not None and alone.spread is not None
    assert compared.spread.freedom == alone.spread.freedom == 2 and (compared.spread.deviation == alone.spread.deviation).all()
    unknown = compare_models([replace(plain, networks=()), replace(refined, networks=()), other], [(1, 0), (2, 0)], 1000)
    assert not unknown.pairs[0].is_resolved()


def _with_more_hits(counts: np.ndarray) -> np.ndarray:
    """Turn one wrong pixel in ten into a hit."""
    gained = (counts[:, 1] - counts[:, 0]) // 10
    return np.stack([counts[:, 0] + gained, counts[:, 1], counts[:, 2]], axis=1)


def test_p_values_without_correction_are_those_of_single_pairs():
    models = [scored_model(str(number), 1.0 + number / 10, number=number) for number in range(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    together = compare_models(models, pairs, 1000).pairs
    for pair, compared in zip(pairs, together, strict=True):
        (alone,) = compare_models(models, [pair], 1000).pairs
        assert (compared.single_p_values == alone.single_p_values).all() and alone.p_values[0] == alone.single_p_values[0]


def test_several_draws_decide_a_difference():
    models = [scored_model(str(number), 1.0, number=number) for number in range(6)]
    draws = enough_draws(models, 15, 1000)
    certain = ResampledScores(np.ones(1), np.ones((draws, 1)), np.full(1, IMAGES))
    assert draws > 1000 and 10 * (certain.p_value() or 0) * 15 * CLASSES < 0.05
    assert enough_draws(models, 1, 50_000) == 50_000 and enough_draws(models, 200, 1000) == 100_000
