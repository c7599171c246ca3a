"""Copies of models without their values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segzoo.layers.parameters import count_parameters, meta_copy


class Tied(nn.Module):
    """Two layers with one weight, a frozen bias and a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.second.weight = self.first.weight
        self.first.bias.requires_grad_(False)  # type: ignore[union-attr]
        self.norm = nn.BatchNorm2d(3)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_meta_copy_has_the_form_of_its_model_and_no_values(device):
    with torch.device(device):
        model = Tied()
    copied: Tied = meta_copy(model)  # type: ignore[assignment]
    kept = {name: (value.shape, value.dtype) for name, value in model.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in copied.state_dict().items()} == kept
    assert all(value.is_meta for value in copied.state_dict().values())
    assert all(value.device.type == device for value in model.state_dict().values())
    assert copied.norm.running_mean is not model.norm.running_mean
    assert copied.second.weight is copied.first.weight and count_parameters(copied) == count_parameters(model)
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in model.parameters()]
