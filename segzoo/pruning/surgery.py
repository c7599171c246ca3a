"""Networks without some of their channels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segzoo.layers.channel_widths import narrow_
from segzoo.pruning.dependency_graph import Channels, Slot


@torch.no_grad()
def cut_(model: nn.Module, channels: Channels, dropped: Collection[int]) -> dict[str, int]:
    """Removes channels everywhere at once, in place.

    Args:
        model: the model that the channels were found in.
        channels: of that model.
        dropped: channels to remove.

    Returns:
        The output channels of each convolution that became narrower, by name.
    """
    return narrow_(model, {name: without(name, tensor, channels, dropped) for name, tensor in model.state_dict().items()})


def without(name: str, tensor: Tensor, channels: Channels, dropped: Collection[int]) -> Tensor:
    """A parameter, or anything of its shape such as an optimiser's moment, without the dropped channels."""
    for dim in range(tensor.dim()):
        held = channels.slots.get(Slot(name, dim), ())
        left = [position for position, channel in enumerate(held) if channel not in dropped]
        if len(left) < len(held):
            tensor = tensor.index_select(dim, torch.tensor(left, device=tensor.device))
    return tensor


@contextmanager
def masked(model: nn.Module, channels: Channels, dropped: Collection[int]) -> Iterator[None]:
    """A ``with`` block in which the dropped channels are always zero: the network answers as the one without them would.

    Filters and what scales and shifts their outputs are zero meanwhile, and as they were afterwards.
    """
    gone, kept = set(dropped), []
    parameters = dict(model.named_parameters())
    flat = [slot for slot in channels.slots if slot.dim == 0 and slot.name in parameters and parameters[slot.name].dim() == 1]
    try:
        for slot in (*channels.makers, *flat):
            places = [place for place, channel in enumerate(channels.slots[slot]) if channel in gone]
            if places:
                tensor = parameters[slot.name].data
                kept.append((tensor, tensor.clone()))
                tensor.index_fill_(slot.dim, torch.tensor(places, device=tensor.device), 0)
        yield
    finally:
        for tensor, before in kept:
            tensor.copy_(before)
