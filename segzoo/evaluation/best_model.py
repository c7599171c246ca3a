"""Test of which models are worse than the best of several.

The best model is chosen by the scores that are tested, which favors it. So the intervals of all differences between the models have to
hold at once: the single-step method of Romano & Wolf (Exact and Approximate Stepdown Methods for Multiple Hypothesis Testing, JASA
100(469), 2005) takes the largest standardized difference of each bootstrap draw. It keeps the probability that any model is wrongly
called worse below 5 %, and unlike a correction of p-values it does not need more draws for more models.
"""

from __future__ import annotations

import math

import numpy as np

from segzoo.evaluation.bootstrap import LEVEL, MIN_IMAGES


def worse_than_best(scores: np.ndarray, draws: np.ndarray, units: int) -> np.ndarray:
    """Find the models whose score is below the highest one with certainty.

    Args:
        scores: (M,), one per model, on all images.
        draws: (D, M), on the images of each bootstrap draw, the same for all models.
        units: number of images, or of groups of images, that are drawn.

    Returns:
        bool (M,). No model is certainly worse below ``MIN_IMAGES`` units.
    """
    if units < MIN_IMAGES:
        return np.zeros(len(scores), bool)
    best = int(np.argmax(scores))
    errors, largest = draws - scores, np.zeros(len(draws))
    for model in range(len(scores) - 1):
        differences = errors[:, [model]] - errors[:, model + 1 :]
        largest = np.maximum(largest, np.abs(_standardize(differences, differences.std(0))).max(1))
    bound = _widened(float(np.quantile(largest, LEVEL)), units)
    return _standardize(scores[best] - scores, (errors[:, [best]] - errors).std(0)) > bound


def _standardize(differences: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Divide by standard deviations, with 0 for models that are the same."""
    return np.divide(differences, deviations, out=np.zeros_like(differences), where=deviations > 0)


def _widened(bound: float, units: int) -> float:
    """Widen a bound as a t distribution does, see ``bootstrap``."""
    from scipy.special import ndtr, stdtrit

    return float(-math.sqrt(units / (units - 1)) * stdtrit(units - 1, ndtr(-bound)))
