"""Number of parameters of a model."""

from __future__ import annotations

from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Count the parameters that inference uses.

    Training-only heads, below ``aux``, are left out, as in layer tables, benchmarks and exported files.
    """
    return sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("aux."))
