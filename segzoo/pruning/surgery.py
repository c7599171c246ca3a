"""Networks without some of their channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim


@torch.no_grad()
def remove_channels_(model: nn.Module, channels: ChannelGraph, dropped: Collection[int]) -> dict[str, int]:
    """Removes channels everywhere at once, in place.

    Args:
        model: the model that the channels were found in.
        channels: of that model.
        dropped: channels to remove.

    Returns:
        The output channels of each convolution that became narrower, by name.
    """
    return set_channel_widths_(
        model, {name: drop_channels(name, tensor, channels, dropped) for name, tensor in model.state_dict().items()}
    )


def drop_channels(name: str, tensor: Tensor, channels: ChannelGraph, dropped: Collection[int]) -> Tensor:
    """A parameter, or anything of its shape such as an optimizer's moment, without the dropped channels."""
    for dim in range(tensor.dim()):
        held = channels.dims.get(ParamDim(name, dim), ())
        left = [position for position, channel in enumerate(held) if channel not in dropped]
        if len(left) < len(held):
            tensor = tensor.index_select(dim, torch.tensor(left, device=tensor.device))
    return tensor


@contextmanager
def channels_masked(model: nn.Module, channels: ChannelGraph, dropped: Collection[int]) -> Iterator[None]:
    """A ``with`` block in which the dropped channels are always zero: the network answers as the one without them would.

    Filters and what scales and shifts their outputs are zero meanwhile, and as they were afterwards.
    """
    gone, kept = set(dropped), []
    parameters = dict(model.named_parameters())
    flat = [slot for slot in channels.dims if slot.dim == 0 and slot.name in parameters and parameters[slot.name].dim() == 1]
    try:
        for slot in (*channels.producers, *flat):
            places = [place for place, channel in enumerate(channels.dims[slot]) if channel in gone]
            if places:
                tensor = parameters[slot.name].data
                kept.append((tensor, tensor.clone()))
                tensor.index_fill_(slot.dim, torch.tensor(places, device=tensor.device), 0)
        yield
    finally:
        for tensor, before in kept:
            tensor.copy_(before)
