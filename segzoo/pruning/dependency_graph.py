"""Which channels of which layers must go together: followed through every operation of a network, by arithmetic on the meta device.

Each dimension of each parameter gets one label a position. A convolution says that its input's channels are those its weight reads;
a sum, that its terms' channels are the same; a join, that they stand one after another. What the labels end up equal to is one channel
of the network, and it can only be removed everywhere at once.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from segzoo.layers.conv import Classifier
from segzoo.pruning.channel_tracer import ChannelTracer
from segzoo.pruning.op_rules import KEPT, ParamDim


class ChannelGraph(NamedTuple):
    """The channels of a network.

    Attributes:
        slots: the channel that each position of each dimension holds; 0 is what must stay.
        blocks: channels that play the same part, in order: those of one layer, or of all the layers that a sum ties together.
        makers: the dimension of each convolution's weight that makes channels.
    """

    dims: dict[ParamDim, tuple[int, ...]]
    groups: list[tuple[int, ...]]
    producers: list[ParamDim]

    def filters(self, block: Sequence[int]) -> list[ParamDim]:
        """The output dimensions of convolutions' weights that make the channels of a block."""
        wanted = set(block)
        return [slot for slot in self.producers if wanted & set(self.dims[slot])]


@torch.no_grad()
def trace_channels(model: nn.Module, size: int = 128, exclude: Collection[str] = ()) -> ChannelGraph:
    """Follows the channels of a model, training-only heads included.

    Args:
        model: a segmentation model on any device; a copy on the meta device is run.
        size: side in pixels of the image that is followed.
        exclude: beginnings of names of convolutions that lose nothing; what reads them need not be followed.

    Raises:
        NotImplementedError: an operation mixes channels in a way that cannot be followed, such as a grouped convolution; or it is not
            known here.
    """
    blank = copy.deepcopy(model).to("meta")
    follower = ChannelTracer(blank, exclude)
    for name, layer in blank.named_modules():
        if isinstance(layer, Classifier):
            follower.keep(follower.dims[ParamDim(f"{name}.weight", 0)])
    with follower:
        answers = model_outputs(blank, size)
    for logits in answers:
        follower.keep(follower.of[logits][1])
    return _found(follower)


def model_outputs(blank: nn.Module, size: int = 128) -> list[Tensor]:
    """Every answer of a model on the meta device, those of its training-only heads too."""
    blank.eval().training = True  # the heads of training answer, while norms and dropout stay as in evaluation
    return [leaf for leaf in tree_leaves(tuple(blank(torch.empty(1, 3, size, size, device="meta")))) if isinstance(leaf, Tensor)]


def _found(follower: ChannelTracer) -> ChannelGraph:
    """Every slot by its channels, and the channels in blocks."""
    slots = {slot: tuple(map(follower.root, labels)) for slot, labels in follower.dims.items()}
    parts: dict[int, list[ParamDim]] = {}
    for slot, held in slots.items():
        for channel in dict.fromkeys(held):
            parts.setdefault(channel, []).append(slot)
    made = {channel for maker in follower.producers for channel in slots[maker]} - {KEPT}
    blocks: dict[tuple[ParamDim, ...], list[int]] = {}
    for channel, where in parts.items():
        if channel in made:  # not so in layers that never run, such as those of branches left out
            blocks.setdefault(tuple(where), []).append(channel)
    return ChannelGraph(slots, [tuple(block) for block in blocks.values()], follower.producers)
