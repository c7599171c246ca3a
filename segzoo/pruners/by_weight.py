"""Filters ranked by what is written in them, or at random as the control."""

from __future__ import annotations

import zlib
from typing import Annotated

import torch
from torch import Tensor, nn

from segzoo.pruners._base import Gradients, How, Multiple, Pruner, Share, Start, Values, filters
from segzoo.pruners.channels import Channels, Slot
from segzoo.registry import PRUNERS, Range


@PRUNERS.register
def none() -> None:
    """Removes nothing."""


@PRUNERS.register
def l1(
    *,
    keep: Share = 0.5,
    steps: tuple[Share, ...] | None = None,
    start: Start = 0.5,
    how: How = "uniform",
    multiple: Multiple = 1,
    exclude: tuple[str, ...] = (),
) -> Pruner:
    """Filters with the smallest sums of absolute weights go first. Li et al., ICLR 2017, arXiv:1608.08710; ICNet, sec. 3.4.

    Args:
        keep: share of the channels that stay.
        steps: shares that stay after each stage, falling, in place of ``keep``.
        start: share of a training after which the first stage comes; the others follow evenly until its end.
        how: ``uniform``: the same share of every layer; ``global``: where they are worth least against their layer's mean.
        multiple: numbers of channels left are multiples of this.
        exclude: beginnings of layers' names that lose nothing.
    """
    return Pruner(_norm(1), steps or (keep,), start, how, multiple, exclude)


@PRUNERS.register
def l2(
    *,
    keep: Share = 0.5,
    steps: tuple[Share, ...] | None = None,
    start: Start = 0.5,
    how: How = "uniform",
    multiple: Multiple = 1,
    exclude: tuple[str, ...] = (),
) -> Pruner:
    """Filters of the smallest Euclidean length go first; settings as in ``l1``."""
    return Pruner(_norm(2), steps or (keep,), start, how, multiple, exclude)


@PRUNERS.register
def random(
    *,
    keep: Share = 0.5,
    steps: tuple[Share, ...] | None = None,
    start: Start = 0.5,
    how: How = "uniform",
    multiple: Multiple = 1,
    exclude: tuple[str, ...] = (),
    seed: Annotated[int, Range(0)] = 0,
) -> Pruner:
    """Filters drawn by lot go: the control that any ranking must beat; settings as in ``l1``, and the ``seed`` of the draw."""

    def draw(model: nn.Module, channels: Channels, gradients: Gradients) -> Values:
        def of(slot: Slot) -> Tensor:  # of its own lot, so that a resumed run draws the same
            lot = torch.Generator().manual_seed(zlib.crc32(slot.name.encode()) + seed)
            return torch.rand(len(channels.slots[slot]), generator=lot)

        return of

    return Pruner(draw, steps or (keep,), start, how, multiple, exclude)


def _norm(order: int):
    def worth(model: nn.Module, channels: Channels, gradients: Gradients) -> Values:
        weights = dict(model.named_parameters())
        return lambda slot: torch.linalg.vector_norm(filters(weights[slot.name], slot), ord=order, dim=1)

    return worth
