"""Dropout: statistics of its mask, scale, gradient and memory order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segzoo.layers.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9])
def test_mask_is_unbiased_and_independent(p):
    torch.manual_seed(0)
    kept = (Dropout(p)(torch.ones(64, 4096)) != 0).double()
    deviation = (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * deviation / kept.numel() ** 0.5
    lanes = kept.flatten().unflatten(0, (-1, 4)).mean(0)  # the four elements of one number
    assert (lanes - (1 - p)).abs().max() < 5 * deviation / (kept.numel() / 4) ** 0.5
    centered = kept.flatten() - (1 - p)
    for lag in (1, 2, 3, 4, 4096):  # neighbors, and elements one row apart
        correlation = (centered[lag:] * centered[:-lag]).mean() / deviation**2
        assert abs(correlation) < 5 / len(centered) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_elements_are_scaled_and_so_are_gradients(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7, dtype=dtype, requires_grad=True)
    y = Dropout(0.5)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, torch.where(y == 0, 0, 2 * x))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, 2 * (y != 0).to(dtype))


def test_the_expectation_is_that_of_the_input():
    torch.manual_seed(0)
    assert Dropout(0.3)(torch.ones(1000, 1000)).double().mean().item() == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_order_is_kept(memory_format):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=memory_format)
    assert Dropout(0.5)(x).is_contiguous(memory_format=memory_format)
    assert Dropout(0.5)(x[:, :, ::2]).shape == (2, 3, 2, 5)


def test_a_seed_repeats_the_mask():
    def draw() -> torch.Tensor:
        torch.manual_seed(3)
        return Dropout(0.5)(torch.ones(7, 9))

    assert torch.equal(draw(), draw()) and not torch.equal(draw(), Dropout(0.5)(torch.ones(7, 9)))


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything_are_as_in_torch(p):
    x = torch.randn(3, 5)
    assert torch.equal(Dropout(p)(x), nn.Dropout(p)(x))
    assert torch.equal(Dropout(0.5).eval()(x), x)
