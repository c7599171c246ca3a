"""Mixing images: equal to torch's soft targets where nothing is ignored, and what is ignored stays out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.registry import LOSSES, MIXES, ConfigError
from segzoo.types import Logits


def batch(ignored: float = 0.0):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 3, 8, 10, generator=generator)
    label = torch.randint(0, 4, (3, 8, 10), generator=generator)
    return x, torch.where(torch.rand(label.shape, generator=generator) < ignored, 255, label), generator


def mixed_loss(logits, targets, loss):
    weight = torch.stack([share * loss.weight(label, logits) for label, share in targets]).sum(0)
    return loss.total(torch.stack([share * loss.terms(logits, label, weight) for label, share in targets]).sum(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_is_torchs_cross_entropy_with_soft_targets(smoothing):
    x, label, generator = batch()
    targets, mixer = MIXES.build("mixup", alpha=1.0)(label, 3)
    share = targets[0][1]
    assert 0 < share < 1 and torch.equal(targets[1][0], label.roll(1, 0)) and targets[1][1] == 1 - share
    torch.testing.assert_close(mixer(x), share * x + (1 - share) * x.roll(1, 0))
    logits = Logits(torch.randn(3, 4, 8, 10, generator=generator))
    soft = share * F.one_hot(label, 4) + (1 - share) * F.one_hot(label.roll(1, 0), 4)
    wanted = F.cross_entropy(logits.main, soft.permute(0, 3, 1, 2), label_smoothing=smoothing)
    loss = LOSSES.build("cross_entropy", (), False, at="label", label_smoothing=smoothing)
    torch.testing.assert_close(mixed_loss(logits, targets, loss), wanted)


def test_an_ignored_pixel_counts_by_the_other_map_alone():
    _, label, generator = batch(0.4)
    targets, _ = MIXES.build("mixup", alpha=1.0)(label, 3)
    logits = Logits(torch.randn(3, 4, 8, 10, generator=generator))
    sums, weights = 0.0, 0.0
    for map, share in targets:
        sums += share * F.cross_entropy(logits.main, map, ignore_index=255, reduction="sum")
        weights += share * (map != 255).sum()
    loss = LOSSES.build("cross_entropy", (), False, at="label")
    torch.testing.assert_close(mixed_loss(logits, targets, loss), sums / weights)


@given(seed=st.integers(0, 2**32), chance=st.sampled_from([0.0, 1.0]), alpha=st.floats(0.05, 5))
@settings(max_examples=60, deadline=None)
def test_cutmix_takes_whole_pixels_of_one_box_from_the_next_picture(seed, chance, alpha):
    x, label, _ = batch()
    [(cut, share)], mixer = MIXES.build("cutmix", alpha=alpha, chance=chance)(label, seed)
    taken = (mixer(x) == x.roll(1, 0)).all(1)
    kept = (mixer(x) == x).all(1)
    assert share == 1 and (taken | kept).all()
    assert torch.equal(cut, torch.where(taken, label.roll(1, 0), label))
    rows, columns = taken[0].any(1).nonzero().flatten(), taken[0].any(0).nonzero().flatten()
    if len(rows):
        assert taken[0][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a box without holes
    if chance == 0:
        assert kept.all()


def test_a_seed_decides_and_none_mixes_nothing():
    _, label, _ = batch()
    blend = MIXES.build("mixup")
    assert blend(label, 7)[0][0][1] == blend(label, 7)[0][0][1] != blend(label, 8)[0][0][1]
    assert MIXES.build("none") is None
    with pytest.raises(ConfigError, match="alpha"):
        MIXES.build("mixup", alpha=0.0)
