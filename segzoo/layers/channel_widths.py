"""Channel counts that differ from the configuration, as in pruned models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def set_channel_widths_(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Load a state dict of any channel widths into a model.

    The model changes in place. Parameters stay the same objects and keep their memory format.

    Args:
        model: any model with the layers of the state dict.
        state: every parameter and buffer by name, with as many dimensions as the model's own.

    Returns:
        The output channels of each convolution that is now narrower or wider, by name.

    Raises:
        ValueError: names are missing or unknown, or a kernel or the number of dimensions differs.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    mismatches = sorted(own.keys() ^ state.keys())
    shapes = {name: (own[name].shape, state[name].shape) for name in own.keys() & state.keys()}
    mismatches += [name for name, (before, after) in shapes.items() if len(before) != len(after) or before[2:] != after[2:]]
    if mismatches:
        raise ValueError(
            f"the state dict differs from the model in more than channel counts: {', '.join(mismatches[:5])}. Load it into the "
            "architecture that it was saved from"
        )
    widths = {}
    for name, tensor in state.items():
        channels_last = own[name].dim() == 4 and not own[name].is_contiguous()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        # a copy in memory of its own: tensors of a file are not aligned, and on some CPUs alignment decides the last bit of a sum
        own[name].data = tensor.to(own[name].device, own[name].dtype, copy=True, memory_format=layout)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            before = layer.out_channels
            layer.out_channels, layer.in_channels = layer.weight.shape[:2][:: -1 if transposed else 1]
            if layer.out_channels != before:
                widths[name] = layer.out_channels
        elif isinstance(layer, _BatchNorm):  # the base class covers SyncBatchNorm too
            layer.num_features = len(layer.running_mean)  # type: ignore[arg-type]
    return widths


def conv_out_channels(model: nn.Module) -> dict[str, int]:
    """The output channels of every convolution, by name."""
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)}
