"""Mixing of images, compared with soft targets in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.registry import LOSSES, MIXES, ConfigError
from segzoo.types import Logits


def batch(ignored_fraction: float = 0.0):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 3, 8, 10, generator=generator)
    label = torch.randint(0, 4, (3, 8, 10), generator=generator)
    return x, torch.where(torch.rand(label.shape, generator=generator) < ignored_fraction, 255, label), generator


def mixed_loss(logits, targets, loss):
    valid_weight = torch.stack([weight * loss.weight(label, logits) for label, weight in targets]).sum(0)
    return loss.total(torch.stack([weight * loss.terms(logits, label, valid_weight) for label, weight in targets]).sum(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_equals_cross_entropy_with_soft_targets(smoothing):
    x, label, generator = batch()
    targets, mix_images = MIXES.build("mixup", alpha=1.0)(label, 3)
    weight = targets[0][1]
    assert 0 < weight < 1 and torch.equal(targets[1][0], label.roll(1, 0)) and targets[1][1] == 1 - weight
    torch.testing.assert_close(mix_images(x), weight * x + (1 - weight) * x.roll(1, 0))
    logits = Logits(torch.randn(3, 4, 8, 10, generator=generator))
    soft = weight * F.one_hot(label, 4) + (1 - weight) * F.one_hot(label.roll(1, 0), 4)
    expected = F.cross_entropy(logits.main, soft.permute(0, 3, 1, 2), label_smoothing=smoothing)
    loss = LOSSES.build("cross_entropy", (), False, resolution="label", label_smoothing=smoothing)
    torch.testing.assert_close(mixed_loss(logits, targets, loss), expected)


def test_a_pixel_ignored_in_one_label_map_counts_with_the_weight_of_the_other():
    _, label, generator = batch(0.4)
    targets, _ = MIXES.build("mixup", alpha=1.0)(label, 3)
    logits = Logits(torch.randn(3, 4, 8, 10, generator=generator))
    sums, weights = 0.0, 0.0
    for labels, weight in targets:
        sums += weight * F.cross_entropy(logits.main, labels, ignore_index=255, reduction="sum")
        weights += weight * (labels != 255).sum()
    loss = LOSSES.build("cross_entropy", (), False, resolution="label")
    torch.testing.assert_close(mixed_loss(logits, targets, loss), sums / weights)


@given(seed=st.integers(0, 2**32), prob=st.sampled_from([0.0, 1.0]), alpha=st.floats(0.05, 5))
@settings(max_examples=60, deadline=None)
def test_cutmix_replaces_one_box_with_that_of_the_next_image(seed, prob, alpha):
    x, label, _ = batch()
    [(mixed, weight)], mix_images = MIXES.build("cutmix", alpha=alpha, prob=prob)(label, seed)
    taken = (mix_images(x) == x.roll(1, 0)).all(1)
    kept = (mix_images(x) == x).all(1)
    assert weight == 1 and (taken | kept).all()
    assert torch.equal(mixed, torch.where(taken, label.roll(1, 0), label))
    rows, columns = taken[0].any(1).nonzero().flatten(), taken[0].any(0).nonzero().flatten()
    if len(rows):
        assert taken[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a box without holes
    if prob == 0:
        assert kept.all()


def test_mixing_depends_on_the_seed_and_none_disables_it():
    _, label, _ = batch()
    mix = MIXES.build("mixup")
    assert mix(label, 7)[0][0][1] == mix(label, 7)[0][0][1] != mix(label, 8)[0][0][1]
    assert MIXES.build("none") is None
    with pytest.raises(ConfigError, match="alpha"):
        MIXES.build("mixup", alpha=0.0)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_fraction_of_mixed_batches_is_that_of_the_setting(name):
    x, label, _ = batch()
    mix, mixed = MIXES.build(name, alpha=1.0, prob=0.25), 0
    for seed in range(400):
        targets, mix_images = mix(label, seed)
        mixed += len(targets) > 1 or not torch.equal(mix_images(x), x)
    assert 65 < mixed < 135


def test_small_values_of_alpha_mix_little():
    _, label, _ = batch()
    weights = {
        alpha: torch.tensor([MIXES.build("mixup", alpha=alpha)(label, seed)[0][0][1] for seed in range(300)])
        for alpha in (0.2, 50.0)
    }
    spread = {alpha: float((values - 0.5).abs().mean()) for alpha, values in weights.items()}
    assert spread[0.2] > 0.35 and spread[50.0] < 0.06


def test_the_box_of_cutmix_has_the_drawn_area_unless_a_border_cuts_it():
    label = torch.arange(2)[:, None, None].expand(2, 41, 60)
    whole = 0
    for seed in range(200):
        [(mixed, _)], _ = MIXES.build("cutmix", alpha=1.0, prob=1.0)(label, seed)
        area = 1 - float(np.random.default_rng(seed).beta(1.0, 1.0))
        for axis, side in ((1, 41), (0, 60)):
            places, expected = (mixed[0] == 1).any(axis).nonzero().flatten().tolist(), round(side * area**0.5)
            if places and places[0] > 0 and places[-1] < side - 1:
                assert len(places) == expected
                whole += 1
            assert len(places) <= expected
    assert whole > 100
