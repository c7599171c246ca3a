"""Filters ranked by what is written in them, or at random as the control. Settings of all pruners: ``_plan.plan``."""

from __future__ import annotations

import zlib
from typing import Annotated

import torch
from torch import Tensor, nn

from segzoo.pruners._base import Evidence, Values, filters
from segzoo.pruners._plan import ranked
from segzoo.pruners.channels import Channels, Slot
from segzoo.registry import PRUNERS, Range


@PRUNERS.register
def none() -> None:
    """Removes nothing."""


@ranked()
def l1(model: nn.Module, channels: Channels, evidence: Evidence) -> Values:
    """Filters with the smallest sums of absolute weights go first. Li et al., ICLR 2017, arXiv:1608.08710; ICNet, sec. 3.4."""
    return _norms(model, 1)


@ranked()
def l2(model: nn.Module, channels: Channels, evidence: Evidence) -> Values:
    """Filters of the smallest Euclidean length go first."""
    return _norms(model, 2)


@ranked()
def random(model: nn.Module, channels: Channels, evidence: Evidence, *, seed: Annotated[int, Range(0)] = 0) -> Values:
    """Filters drawn by lot go: the control that any ranking must beat.

    Args:
        seed: of the draw.
    """

    def of(slot: Slot) -> Tensor:  # of its own lot, so that a resumed run draws the same
        lot = torch.Generator().manual_seed(zlib.crc32(slot.name.encode()) + seed)
        return torch.rand(len(channels.slots[slot]), generator=lot)

    return of


def _norms(model: nn.Module, order: int) -> Values:
    weights = dict(model.named_parameters())
    return lambda slot: torch.linalg.vector_norm(filters(weights[slot.name], slot), ord=order, dim=1)
