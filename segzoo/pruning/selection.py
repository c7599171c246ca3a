"""Which channels to remove, from what each of them is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

from torch import Tensor

from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim

Importance = Callable[[ParamDim], Tensor]  # of each position of a convolution's output dimension, (C,)


def channel_importance(channels: ChannelGraph, worth: Importance, exclude: Collection[str] = ()) -> dict[int, float]:
    """What each channel is worth: the sum over all filters that make it.

    Args:
        channels: of a network.
        worth: of the filters of one layer.
        exclude: beginnings of names of layers that are not asked.
    """
    total: dict[int, float] = {}
    for _, block in groups_of(channels, exclude):
        for slot in channels.filters(block):
            for channel, value in zip(channels.dims[slot], worth(slot).tolist(), strict=True):
                total[channel] = total.get(channel, 0.0) + value
    return total


def groups_of(channels: ChannelGraph, exclude: Collection[str] = ()) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The blocks that may lose channels, each with its place in ``channels.blocks``."""
    for place, block in enumerate(channels.groups):
        if not exclude or not any(slot.name.startswith(tuple(exclude)) for slot in channels.filters(block)):
            yield place, block


def select_channels(
    channels: ChannelGraph,
    worth: Mapping[int, float],
    keep: float,
    *,
    how: Literal["uniform", "global"] = "uniform",
    multiple: int = 1,
    exclude: Collection[str] = (),
    kept: Mapping[int, float] | None = None,
    grown: Mapping[int, float] | None = None,
) -> set[int]:
    """The channels of least worth.

    Args:
        channels: of a network.
        worth: of each channel.
        keep: share of the channels that stay, 0 to 1.
        how: ``uniform``: the same share of every block, as the paper does; ``global``: wherever they are worth least against the mean
            of their block, so that blocks give unlike shares; a block that is worth nothing gives the common share.
        multiple: numbers of channels left are multiples of this, at least one of it; a block of fewer stays as it is.
        exclude: beginnings of layers' names that lose nothing, such as ``backbone.c1``.
        kept: share that stays of single blocks as they are now, by their place in ``channels.blocks``; ``how`` says it of the others.
        grown: channels that single blocks had at first, by place, where ``keep`` is a share of those.
    """
    chosen: set[int] = set()
    sizes = {place: (grown or {}).get(place, len(block)) for place, block in groups_of(channels, exclude)}
    counts = _levels(channels, worth, keep, sizes) if how == "global" else {}
    counts |= {place: share * len(channels.groups[place]) for place, share in (kept or {}).items()}
    for place, block in groups_of(channels, exclude):
        stay = _rounded(counts.get(place, keep * sizes[place]), multiple, len(block))
        ranked = sorted(block, key=lambda channel: worth[channel], reverse=True)  # equal ones stay in order
        chosen |= set(ranked[stay:])
    return chosen


def _levels(channels: ChannelGraph, worth: Mapping[int, float], keep: float, sizes: Mapping[int, float]) -> dict[int, float]:
    """How many channels stay of each block under one threshold on relative worth; equal ones go evenly from all blocks."""
    relative, total = [], 0.0
    for place, size in sizes.items():
        ranked = sorted((worth[channel] for channel in channels.groups[place]), reverse=True)
        mean = sum(ranked) / len(ranked)
        if mean > 0:
            total += size
            relative += [(value / mean, -rank / len(ranked), place) for rank, value in enumerate(ranked)]
    relative.sort(reverse=True)
    stay = Counter(place for *_, place in relative[: round(keep * total)])
    return {place: float(stay[place]) for *_, place in relative}


def _rounded(count: float, multiple: int, most: int) -> int:
    if count >= most:
        return most
    return max(min(multiple, most), min(multiple * round(count / multiple), most // multiple * multiple))
