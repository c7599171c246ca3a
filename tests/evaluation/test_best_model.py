"""Tests of models against the best of them."""

from __future__ import annotations

import numpy as np
import pytest

from segzoo.evaluation.best_model import worse_than_best


def wrongly_worse(models: int, images: int, repeats: int) -> float:
    """Rate at which any of several equal models is called worse."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(repeats):
        images_of = rng.normal(0, 1, (images, 1)) + rng.normal(0, 0.5, (images, models))
        times = rng.multinomial(images, [1 / images] * images, size=300) / images
        wrong += bool(worse_than_best(images_of.mean(0), times @ images_of, images).any())
    return wrong / repeats


@pytest.mark.parametrize(("models", "images"), [(2, 12), (8, 40)])
def test_equal_models_are_rarely_called_worse(models, images):
    assert wrongly_worse(models, images, 200) <= 0.085  # 5 %, plus 2.3 standard errors


def test_a_clear_difference_is_found_among_many_models():
    rng = np.random.default_rng(1)
    quality = np.array([0.0, -0.02, *[-1.0] * 60])
    images_of = quality + rng.normal(0, 1, (60, 1)) + rng.normal(0, 0.3, (60, 62))
    times = rng.multinomial(60, [1 / 60] * 60, size=2000) / 60
    found = worse_than_best(images_of.mean(0), times @ images_of, 60)
    assert not found[:2].any() and found[2:].all()
    assert not worse_than_best(images_of.mean(0), times @ images_of, 9).any()  # too few units


def test_the_same_model_twice_is_not_worse():
    draws = np.random.default_rng(2).normal(0.5, 0.1, (500, 1)).repeat(3, axis=1)
    assert not worse_than_best(np.array([0.5, 0.5, 0.5]), draws, 50).any()
