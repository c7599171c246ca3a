"""Networks whose channels all have different values."""

from __future__ import annotations

from typing import Any

from torch import nn


def vary_batch_norms_(model: nn.Module) -> None:
    """Give every batch norm channel its own scale, shift and statistics."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.data.uniform_(0.6, 1.4)  # type: ignore[union-attr]


def varied_(model: Any) -> Any:
    """Give every channel of batch norm and convolutions its own values."""
    vary_batch_norms_(model)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return model
