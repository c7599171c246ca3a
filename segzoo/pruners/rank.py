"""Which channels to remove, from what each of them is worth."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from segzoo.pruners.channels import Channels, Slot

Worth = Callable[[Slot], Tensor]  # of each position of a convolution's output dimension, (C,)


def worths(channels: Channels, worth: Worth) -> dict[int, float]:
    """What each channel is worth: the sum over all filters that make it.

    Args:
        channels: of a network.
        worth: of the filters of one layer.
    """
    total: dict[int, float] = {}
    for block in channels.blocks:
        for slot in channels.filters(block):
            for channel, value in zip(channels.slots[slot], worth(slot).tolist(), strict=True):
                total[channel] = total.get(channel, 0.0) + value
    return total


def dropped(
    channels: Channels,
    worth: Mapping[int, float],
    keep: float,
    *,
    how: Literal["uniform", "global"] = "uniform",
    multiple: int = 1,
    exclude: Collection[str] = (),
    kept: Mapping[int, float] | None = None,
) -> set[int]:
    """The channels of least worth.

    Args:
        channels: of a network.
        worth: of each channel.
        keep: share of the channels that stay, 0 to 1.
        how: ``uniform``: the same share of every block, as the paper does; ``global``: wherever they are worth least against the mean
            of their block, so that blocks give unlike shares.
        multiple: numbers of channels left are rounded to a multiple of this, at least one of it.
        exclude: beginnings of layers' names that lose nothing, such as ``backbone.c1``.
        kept: share that stays of single blocks, by their place in ``channels.blocks``, where it is another than ``keep``.
    """
    chosen: set[int] = set()
    levels = _levels(channels, worth, keep) if how == "global" else {}
    for place, block in enumerate(channels.blocks):
        if any(slot.name.startswith(tuple(exclude)) for slot in channels.filters(block)) and exclude:
            continue
        share = (kept or {}).get(place, levels.get(place, keep))
        stay = _rounded(share * len(block), multiple, len(block))
        ranked = sorted(block, key=lambda channel: worth[channel], reverse=True)  # equal ones stay in order
        chosen |= set(ranked[stay:])
    return chosen


def _levels(channels: Channels, worth: Mapping[int, float], keep: float) -> dict[int, float]:
    """The share that stays of each block under one threshold on relative worth."""
    relative = []
    for place, block in enumerate(channels.blocks):
        mean = sum(worth[channel] for channel in block) / len(block) or 1.0
        relative += [(worth[channel] / mean, place) for channel in block]
    relative.sort(reverse=True)
    stay = torch.bincount(
        torch.tensor([place for _, place in relative[: round(keep * len(relative))]]), minlength=len(channels.blocks)
    )
    return {place: int(stay[place]) / len(block) for place, block in enumerate(channels.blocks)}


def _rounded(count: float, multiple: int, most: int) -> int:
    return min(most, max(min(multiple, most), multiple * round(count / multiple)))
