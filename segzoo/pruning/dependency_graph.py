"""Channels that must be removed together.

They are found by tracing a model on the meta device. Every index of every dimension of a parameter gets a label. A convolution equates
the channels of its input with those its weight reads, an addition those of its terms, and a concatenation lines them up one after another.
All labels that turn out equal are one channel of the model, which can only be removed everywhere at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from segzoo.layers.conv import Classifier
from segzoo.layers.parameters import meta_copy
from segzoo.pruning.channel_tracer import ChannelTracer
from segzoo.pruning.op_rules import KEPT, ParamDim


class ChannelGraph(NamedTuple):
    """The channels of a model.

    Attributes:
        dims: the channel at each index of each dimension; 0 marks what must be kept.
        groups: channels used by the same layers, in order: those of one layer, or of all layers that an addition ties together.
        producers: the output dimension of each convolution's weight.
    """

    dims: dict[ParamDim, tuple[int, ...]]
    groups: list[tuple[int, ...]]
    producers: list[ParamDim]

    def producers_of(self, group: Sequence[int]) -> list[ParamDim]:
        """The output dimensions of the convolutions that produce a group's channels."""
        channels = set(group)
        return [producer for producer in self.producers if channels & set(self.dims[producer])]


@torch.no_grad()
def trace_channels(model: nn.Module, size: int = 128, exclude: Collection[str] = ()) -> ChannelGraph:
    """Trace the channels of a model, including its training-only heads.

    Args:
        model: a segmentation model on any device; a copy on the meta device is run.
        size: height and width in pixels of the traced image.
        exclude: prefixes of the names of convolutions to keep whole; layers that read their outputs need not be traceable.

    Raises:
        NotImplementedError: an operation is unknown, or mixes channels in a way that cannot be traced, such as a grouped convolution.
    """
    meta_model = meta_copy(model)
    tracer = ChannelTracer(meta_model, exclude)
    for name, layer in meta_model.named_modules():
        if isinstance(layer, Classifier):
            tracer.keep(tracer.dims[ParamDim(f"{name}.weight", 0)])
    with tracer:
        outputs = model_outputs(meta_model, size)
    for logits in outputs:
        tracer.keep(tracer.labels[logits][1])
    return _build_graph(tracer)


def model_outputs(meta_model: nn.Module, size: int = 128) -> list[Tensor]:
    """Run a model on the meta device, including its training-only heads."""
    meta_model.eval().training = True  # runs the training-only heads, with batch norm and dropout in evaluation mode
    outputs = tree_leaves(tuple(meta_model(torch.empty(1, getattr(meta_model, "input_channels", 3), size, size, device="meta"))))
    return [output for output in outputs if isinstance(output, Tensor)]


def _build_graph(tracer: ChannelTracer) -> ChannelGraph:
    """Group the traced channels by the dimensions that hold them."""
    dims = {param_dim: tuple(map(tracer.root, labels)) for param_dim, labels in tracer.dims.items()}
    users: dict[int, list[ParamDim]] = {}
    for param_dim, channels in dims.items():
        for channel in dict.fromkeys(channels):
            users.setdefault(channel, []).append(param_dim)
    produced = {channel for producer in tracer.producers for channel in dims[producer]} - {KEPT}
    groups: dict[tuple[ParamDim, ...], list[int]] = {}
    for channel, param_dims in users.items():
        if channel in produced:  # false in layers that never run, such as those of unused branches
            groups.setdefault(tuple(param_dims), []).append(channel)
    return ChannelGraph(dims, [tuple(group) for group in groups.values()], tracer.producers)
