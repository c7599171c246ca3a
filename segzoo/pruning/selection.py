"""Selection of the channels to remove, by their importance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

from torch import Tensor

from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim

FilterImportance = Callable[
    [ParamDim], Tensor
]  # importance of each filter, (C,), by the output dimension of a convolution's weight


def channel_importance(graph: ChannelGraph, importance: FilterImportance, exclude: Collection[str] = ()) -> dict[int, float]:
    """Sum the importance of all filters that produce each channel.

    Args:
        graph: channels of a model.
        importance: of the filters of one convolution.
        exclude: prefixes of the names of layers to leave out.
    """
    total: dict[int, float] = {}
    for _, group in prunable_groups(graph, exclude):
        for producer in graph.producers_of(group):
            for channel, value in zip(graph.dims[producer], importance(producer).tolist(), strict=True):
                total[channel] = total.get(channel, 0.0) + value
    return total


def prunable_groups(graph: ChannelGraph, exclude: Collection[str] = ()) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield index and channels of each group without an excluded layer."""
    for index, group in enumerate(graph.groups):
        if not exclude or not any(producer.name.startswith(tuple(exclude)) for producer in graph.producers_of(group)):
            yield index, group


def select_channels(
    graph: ChannelGraph,
    importance: Mapping[int, float],
    keep_ratio: float,
    *,
    allocation: Literal["uniform", "global"] = "uniform",
    round_to: int = 1,
    exclude: Collection[str] = (),
    group_ratios: Mapping[int, float] | None = None,
    initial_sizes: Mapping[int, float] | None = None,
) -> set[int]:
    """Select the least important channels.

    Args:
        graph: channels of a model.
        importance: of each channel.
        keep_ratio: fraction of the channels to keep, 0 to 1.
        allocation: ``uniform``: the same ratio in every group, as ICNet was halved; ``global``: the least important channels of all groups,
            by importance relative to the mean of their group, so that ratios differ. A group without any importance keeps ``keep_ratio``.
        round_to: round the channels kept of a group to a multiple of this, at least one; a smaller group keeps all of its channels.
        exclude: prefixes of the names of layers to keep whole, such as ``backbone.c1``.
        group_ratios: fraction of the present channels to keep of single groups, by index; ``allocation`` applies to the others.
        initial_sizes: channels of single groups before any pruning, by index, of which ``keep_ratio`` is a fraction.

    Returns:
        The channels to remove.
    """
    removed: set[int] = set()
    sizes = {index: (initial_sizes or {}).get(index, len(group)) for index, group in prunable_groups(graph, exclude)}
    counts = _global_counts(graph, importance, keep_ratio, sizes) if allocation == "global" else {}
    counts |= {index: ratio * len(graph.groups[index]) for index, ratio in (group_ratios or {}).items()}
    for index, group in prunable_groups(graph, exclude):
        count = _round_count(counts.get(index, keep_ratio * sizes[index]), round_to, len(group))
        ranked = sorted(group, key=lambda channel: importance[channel], reverse=True)  # stable: equal channels stay in order
        removed |= set(ranked[count:])
    return removed


def _global_counts(
    graph: ChannelGraph, importance: Mapping[int, float], keep_ratio: float, sizes: Mapping[int, float]
) -> dict[int, float]:
    """Channels to keep of each group, with one threshold on relative importance.

    Ties are broken by relative rank, so that equal channels are removed evenly from all groups.
    """
    relative, total = [], 0.0
    for index, size in sizes.items():
        ranked = sorted((importance[channel] for channel in graph.groups[index]), reverse=True)
        mean = sum(ranked) / len(ranked)
        if mean > 0:
            total += size
            relative += [(value / mean, -rank / len(ranked), index) for rank, value in enumerate(ranked)]
    relative.sort(reverse=True)
    kept = Counter(index for *_, index in relative[: round(keep_ratio * total)])
    return {index: float(kept[index]) for *_, index in relative}


def _round_count(count: float, round_to: int, size: int) -> int:
    if count >= size:
        return size
    return max(min(round_to, size), min(round_to * round(count / round_to), size // round_to * round_to))
