"""Statistical comparison of models on the same images.

A difference is resolved if the images, and where known the seeds, could hardly have produced it by chance. Differences of several pairs
are tested together by Holm's method (A Simple Sequentially Rejective Multiple Test Procedure, 1979), which keeps the probability of any
false verdict below 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segzoo.evaluation.bootstrap import LEVEL, MIN_IMAGES, SEED, ResampledScores, mean_iou, resample, sum_groups, tail_probability

MAX_DRAWS = 100_000
DRAWS_BEYOND = 20  # draws that decide a difference at the level of all tests together
MAX_VALUES = 10**8  # that the draws of all models and pairs hold


@dataclass(frozen=True)
class ScoredModel:
    """A model with the per-image counts of one evaluation per seed.

    Attributes:
        name: shown in tables.
        counts: (N, 3, K) of each evaluation, with the same K classes for all models that are compared.
        image_set: identifies the images and labels. Models with another one are not paired.
        groups: the group of each image, such as the drive of a frame. None if the images are independent.
        networks: identifies the trained network of each evaluation, such as its checksum. Empty if it is unknown.
    """

    name: str
    counts: tuple[np.ndarray, ...]
    image_set: str = ""
    groups: Sequence[str] | None = None
    networks: tuple[str, ...] = ()


class SeedSpread(NamedTuple):
    """Standard deviation of the scores over seeds, pooled over models.

    Attributes:
        deviation: (1 + K,), of the mIoU and of each class.
        freedom: degrees of freedom, the number of seeds minus the number of models.
    """

    deviation: np.ndarray
    freedom: int


class Pair(NamedTuple):
    """The difference of two models, first minus second.

    Attributes:
        first, second: positions of the models.
        difference: of the mIoU and of each class.
        single_p_values: (1 + K,), each as if it were the only test. NaN if unknown.
        p_values: the same, corrected: those of the mIoU over all pairs, those of the classes over all pairs and classes.
    """

    first: int
    second: int
    difference: ResampledScores
    single_p_values: np.ndarray
    p_values: np.ndarray

    def is_resolved(self, column: int = 0) -> bool:
        """True if the sign of the difference is established."""
        return bool(self.p_values[column] < 1 - LEVEL)  # False for NaN

    def hopeless_tests(self, num_pairs: int) -> str:
        """Name the tests that so many images and draws cannot resolve.

        Args:
            num_pairs: number of pairs that are tested together.

        Returns:
            Empty if there are none.
        """
        certain = ResampledScores(self.difference.values, np.ones_like(self.difference.draws), self.difference.units)
        lowest, classes = certain.p_value() or 0.0, len(self.p_values) - 1
        if lowest * num_pairs >= 1 - LEVEL:
            return f"of {num_pairs} pairs"
        return f"of {num_pairs * classes} classes of all pairs" if lowest * num_pairs * classes >= 1 - LEVEL else ""


class Comparison(NamedTuple):
    """Scores of models and the differences of their pairs.

    Attributes:
        scores: mean over the seeds of each model; the intervals are those of the images alone.
        spread: the spread over seeds; None if no model has several.
        pairs: see ``Pair``.
    """

    scores: list[ResampledScores]
    spread: SeedSpread | None
    pairs: list[Pair]


def compare_models(
    models: Sequence[ScoredModel], pairs: Sequence[tuple[int, int]], draws: int, are_seeds: bool = False
) -> Comparison:
    """Compare models pair by pair.

    With several seeds of any model, a difference is that of the expected scores over seeds: their spread, which is taken to be the same
    for all models, widens the interval. Without, it is that of the networks given. So is a difference between evaluations of the same
    networks, such as with and without a CRF, whose spread over seeds largely cancels.

    Args:
        models: at least two.
        pairs: positions of the models to compare.
        draws: number of bootstrap draws.
        are_seeds: the models are seeds of a single one, whose spread they show.
    """
    sets = list(dict.fromkeys(model.image_set for model in models))
    seeds = [[_resample(model, counts, draws, SEED + sets.index(model.image_set)) for counts in model.counts] for model in models]
    trained = [seeds[index] for index in first_evaluations(models)]
    spread = seed_spread([[scores for model in seeds for scores in model]] if are_seeds else trained)
    differences = [
        difference(seeds[first], seeds[second], None if same_networks(models[first], models[second]) else spread)
        for first, second in pairs
    ]
    single = np.array([[_nan(item.p_value(column)) for column in range(item.draws.shape[1])] for item in differences])
    p_values = single.copy()
    if pairs:
        p_values[:, 0] = holm(p_values[:, 0])
        p_values[:, 1:] = holm(p_values[:, 1:].ravel()).reshape(p_values[:, 1:].shape)
    compared = [Pair(*pair, *values) for pair, values in zip(pairs, zip(differences, single, p_values, strict=True), strict=True)]
    return Comparison([_mean(scores) for scores in seeds], spread, compared)


def same_networks(first: ScoredModel, second: ScoredModel) -> bool:
    """True for two evaluations of the same trained networks."""
    return bool(first.networks) and sorted(first.networks) == sorted(second.networks)


def first_evaluations(models: Sequence[ScoredModel]) -> list[int]:
    """Positions of the models whose networks no earlier model has."""
    return [index for index, model in enumerate(models) if not any(same_networks(earlier, model) for earlier in models[:index])]


def enough_draws(models: Sequence[ScoredModel], num_pairs: int, draws: int) -> int:
    """Raise the number of draws until they can resolve a difference.

    p-values are multiplied by the number of tests, so few draws decide whether the smallest ones are below the level.

    Args:
        models, draws: as for ``compare_models``.
        num_pairs: number of pairs.

    Returns:
        At most ``MAX_DRAWS``, and what keeps the memory within ``MAX_VALUES``, unless ``draws`` is above.
    """
    units = min(len(set(model.groups)) if model.groups else len(model.counts[0]) for model in models)
    tests = num_pairs * models[0].counts[0].shape[2]
    if units < MIN_IMAGES or not tests:
        return draws
    needed = DRAWS_BEYOND / tail_probability(units, 1 - (1 - LEVEL) / tests)
    columns = (1 + models[0].counts[0].shape[2]) * (sum(len(model.counts) for model in models) + num_pairs)
    return max(draws, int(min(needed, MAX_DRAWS, MAX_VALUES / columns)))


def difference(first: Sequence[ResampledScores], second: Sequence[ResampledScores], spread: SeedSpread | None) -> ResampledScores:
    """Subtract the mean scores over seeds of two models.

    Args:
        first, second: scores of the seeds of each model.
        spread: adds the uncertainty of the means over seeds to the draws.
    """
    one, other = _mean(first), _mean(second)
    drawn = one.draws - other.draws
    if spread is not None:
        rng = np.random.default_rng(SEED)
        standard_error = spread.deviation * np.sqrt(1 / len(first) + 1 / len(second))
        drawn = drawn + standard_error * rng.standard_t(spread.freedom, size=(len(drawn), 1))
    return ResampledScores(one.values - other.values, drawn, np.minimum(one.units, other.units))


def seed_spread(models: Sequence[Sequence[ResampledScores]]) -> SeedSpread | None:
    """Pool the spread over seeds of all models that have several."""
    several = [np.stack([seed.values for seed in seeds]) for seeds in models if len(seeds) > 1]
    if not several:
        return None
    freedom = sum(len(values) - 1 for values in several)
    squares = np.sum([((values - values.mean(0)) ** 2).sum(0) for values in several], axis=0)
    return SeedSpread(np.sqrt(squares / freedom), freedom)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p-values of several tests by Holm's method.

    Args:
        p_values: one per test, NaN for one that was not made.

    Returns:
        p-values that can each be compared with the level of a single test.
    """
    made = np.flatnonzero(~np.isnan(p_values))
    order = made[np.argsort(p_values[made], kind="stable")]
    corrected = p_values.copy()
    corrected[order] = np.minimum(np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1)), 1)
    return corrected


def changed_images(first: ScoredModel, second: ScoredModel, number: int) -> list[tuple[int, float, float]]:
    """Find the images whose mIoU differs most between two models.

    Args:
        first, second: models scored on the same images.
        number: how many images to return at most.

    Returns:
        Index and both mIoUs, averaged over seeds, the largest difference first. Images without a difference are left out.
    """
    scores = [np.mean([mean_iou(counts) for counts in model.counts], axis=0) for model in (first, second)]
    change = np.abs(scores[0] - scores[1])
    order = np.argsort(-change, kind="stable")[:number]
    return [(int(index), float(scores[0][index]), float(scores[1][index])) for index in order if change[index] > 0]


def _resample(model: ScoredModel, counts: np.ndarray, draws: int, seed: int) -> ResampledScores:
    return resample(counts if model.groups is None else sum_groups(counts, model.groups), draws, seed)


def _mean(seeds: Sequence[ResampledScores]) -> ResampledScores:
    values, drawn = (np.mean([getattr(seed, name) for seed in seeds], axis=0) for name in ("values", "draws"))
    return ResampledScores(values, drawn, seeds[0].units)


def _nan(value: float | None) -> float:
    return np.nan if value is None else value
