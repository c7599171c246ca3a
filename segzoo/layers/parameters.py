"""Parameters of a model: their number, and copies without values."""

from __future__ import annotations

import copy

import torch
from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Count the parameters that inference uses.

    Training-only heads and unused branches are left out, as in layer tables, benchmarks and exported files. The model names them in
    ``unused_in_inference``. By default they are below ``aux``.
    """
    unused = getattr(model, "unused_in_inference", ("aux.",))
    return sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith(unused))


def meta_copy(model: nn.Module) -> nn.Module:
    """Copy a model to the meta device without copying its values.

    Args:
        model: on any device, also meta; parameters that it shares are shared in the copy.
    """
    copies = {id(own): nn.Parameter(torch.empty_like(own, device="meta"), own.requires_grad) for own in model.parameters()}
    copies |= {id(own): torch.empty_like(own, device="meta") for own in model.buffers()}
    return copy.deepcopy(model, copies)  # deepcopy takes what it finds there for copied
