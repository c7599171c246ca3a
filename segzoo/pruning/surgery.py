"""Removal and masking of channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim


@torch.no_grad()
def remove_channels_(model: nn.Module, graph: ChannelGraph, removed: Collection[int]) -> dict[str, int]:
    """Remove channels from every layer that uses them, in place.

    Args:
        model: the model that was traced.
        graph: its channels.
        removed: channels to remove.

    Returns:
        The output channels of each convolution that is narrower now, by name.
    """
    state = {name: drop_channels(name, tensor, graph, removed) for name, tensor in model.state_dict().items()}
    return set_channel_widths_(model, state)


def drop_channels(name: str, tensor: Tensor, graph: ChannelGraph, removed: Collection[int]) -> Tensor:
    """Return a tensor without the removed channels.

    Args:
        name: of a parameter or buffer.
        tensor: that parameter, or a tensor of its shape such as an optimizer's moment.
        graph: channels of the model.
        removed: channels to remove.
    """
    for dim in range(tensor.dim()):
        channels = graph.dims.get(ParamDim(name, dim), ())
        kept = [index for index, channel in enumerate(channels) if channel not in removed]
        if len(kept) < len(channels):
            tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
    return tensor


@contextmanager
def channels_masked(model: nn.Module, graph: ChannelGraph, removed: Collection[int]) -> Iterator[None]:
    """Set channels to zero in a ``with`` block.

    The outputs equal those of the model without these channels. Their filters, and the biases and scales of their outputs, are zero inside the block and restored after it.
    """
    masked, originals = set(removed), []
    parameters = dict(model.named_parameters())
    vectors = [dim for dim in graph.dims if dim.dim == 0 and dim.name in parameters and parameters[dim.name].dim() == 1]
    try:
        for param_dim in (*graph.producers, *vectors):
            indices = [index for index, channel in enumerate(graph.dims[param_dim]) if channel in masked]
            if indices:
                tensor = parameters[param_dim.name].data
                originals.append((tensor, tensor.clone()))
                tensor.index_fill_(param_dim.dim, torch.tensor(indices, device=tensor.device), 0)
        yield
    finally:
        for tensor, original in originals:
            tensor.copy_(original)
