"""Narrow the weights of a wider network to a network's own widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from segzoo.pruning._base import flatten_filters
from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim, trace_channels
from segzoo.registry import ConfigError


@torch.no_grad()
def narrow_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep the channels with the largest L1 norm of their filters.

    As many are kept as the model has. Channels that an addition ties together are ranked by the sum over all layers that produce them,
    as ``pruner=l1`` ranks them, and every layer that reads a channel follows (Li et al., ICLR 2017, arXiv:1608.08710).

    Args:
        model: a segmentation model, which is not changed.
        state: tensors of the same network at equal or larger widths, by the model's names. Some may be missing.

    Returns:
        The same names. Tensors that cannot be narrowed, because no tensor tells which channels they read, are unchanged.

    Raises:
        ConfigError: the channels of the model cannot be traced.
    """
    try:
        graph = trace_channels(model)
    except NotImplementedError as error:
        raise ConfigError(f"init.narrow=l1: {str(error).partition(';')[0]}. Set init.narrow=none.") from error
    group_of = {channel: index for index, group in enumerate(graph.groups) for channel in group}
    runs = {dim: _runs(graph, group_of, dim) for dim in graph.dims if dim.name in state}
    sizes = _source_sizes(graph, runs, state)
    kept = {index: _largest(graph, index, size, state) for index, size in sizes.items()}
    return {name: _narrow(name, tensor, runs, sizes, kept) for name, tensor in state.items()}


Runs = Sequence[tuple[int | None, int]]  # group, or None for channels outside all groups, and number of consecutive channels


def _runs(graph: ChannelGraph, group_of: Mapping[int, int], dim: ParamDim) -> Runs:
    """Divide a dimension into its groups, which a concatenation lines up.

    It may line up a group several times.
    """
    runs = []
    for group, channels in groupby(graph.dims[dim], key=group_of.get):
        count = len([*channels])
        size = count if group is None else min(count, len(graph.groups[group]))
        copies, rest = divmod(count, size)
        runs += [(group, size)] * copies + [(group, rest)] * bool(rest)
    return runs


def _source_sizes(graph: ChannelGraph, runs: Mapping[ParamDim, Runs], state: Mapping[str, Tensor]) -> dict[int, int]:
    """Read the number of channels of each group in the source.

    The layers that produce them come first.
    """
    sizes: dict[int, int] = {}
    for dim in (*(producer for producer in graph.producers if producer in runs), *runs):
        (group, _), *others = runs[dim]
        if group is not None and not others:
            sizes.setdefault(group, state[dim.name].shape[dim.dim])
    return sizes


def _largest(graph: ChannelGraph, index: int, size: int, state: Mapping[str, Tensor]) -> Tensor | None:
    """Indices of the channels of a group to keep.

    Returns:
        They are in order. None if the group cannot be narrowed.
    """
    count = len(graph.groups[index])
    if size == count:
        return torch.arange(size)
    importance = torch.zeros(size, dtype=torch.float64)
    producers = [p for p in graph.producers_of(graph.groups[index]) if p.name in state and state[p.name].shape[p.dim] == size]
    for producer in producers:
        importance += torch.linalg.vector_norm(flatten_filters(state[producer.name].float(), producer), ord=1, dim=1).double()
    if size < count or not producers:
        return None
    ranked = sorted(range(size), key=importance.tolist().__getitem__, reverse=True)  # stable: equal channels stay in order
    return torch.tensor(sorted(ranked[:count]))


def _narrow(
    name: str, tensor: Tensor, runs: Mapping[ParamDim, Runs], sizes: Mapping[int, int], kept: Mapping[int, Tensor | None]
) -> Tensor:
    """Select the kept channels in each dimension of a tensor."""
    result = tensor
    for dim in range(tensor.dim()):
        own = runs.get(ParamDim(name, dim), ())
        if all(group is None for group, _ in own):
            continue  # such as the colors of the image and the classes
        indices, begin = [], 0
        for group, count in own:
            chosen = torch.arange(count) if group is None else kept.get(group)
            if chosen is None or (group is not None and len(chosen) != count):
                return tensor
            indices.append(begin + chosen)
            begin += count if group is None else sizes[group]
        if begin != tensor.shape[dim]:
            return tensor
        result = result.index_select(dim, torch.cat(indices))
    return result
