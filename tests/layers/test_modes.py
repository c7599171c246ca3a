"""Shapes without batch norm equal those with it."""

from __future__ import annotations

import pytest
import torch
from small_models import on_meta

from segzoo.layers.modes import ShapesOnly


def test_shapes_equal_those_of_a_whole_forward_pass():
    model = on_meta("pspnet", "resnet50", 5, {"width": 0.125}).train()
    images = torch.empty(2, 3, 65, 97, device="meta")
    expected = model(images)
    with ShapesOnly():
        logits = model(images)
    assert [scores.shape for scores in (logits.main, *logits.aux)] == [scores.shape for scores in (expected.main, *expected.aux)]
    assert [scores.dtype for scores in (logits.main, *logits.aux)] == [scores.dtype for scores in (expected.main, *expected.aux)]


def test_one_value_per_channel_is_still_rejected():
    layer = torch.nn.BatchNorm2d(4, device="meta")
    with ShapesOnly(), pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.empty(1, 4, 1, 1, device="meta"))
