"""Networks of other widths than their configuration says: parameters replaced by narrower ones, layers told so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    pass


@torch.no_grad()
def set_channel_widths_(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Gives a model the tensors of a state dict whatever their widths, in place; parameters stay the objects they were, in the memory
    order they had.

    Args:
        model: any model whose layers are those of the state dict.
        state: every parameter and buffer by name, with as many dimensions as the model's own.

    Returns:
        The output channels of each convolution that is now narrower or wider, by name.

    Raises:
        ValueError: names are missing or unknown, or a kernel or the number of dimensions differs.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    if faults := sorted(own.keys() ^ state.keys()) + [
        n for n in own.keys() & state.keys() if own[n].shape[2:] != state[n].shape[2:]
    ]:
        raise ValueError(f"the tensors are not this model's, only of other widths: {', '.join(faults[:5])}")
    widths = {}
    for name, tensor in state.items():
        last = own[name].dim() == 4 and not own[name].is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        own[name].data = tensor.to(own[name].device, own[name].dtype).contiguous(memory_format=layout)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            transposed = isinstance(layer, nn.ConvTranspose2d)
            before = layer.out_channels
            layer.out_channels, layer.in_channels = layer.weight.shape[:2][:: -1 if transposed else 1]
            if layer.out_channels != before:
                widths[name] = layer.out_channels
        elif isinstance(layer, _BatchNorm):  # also the one that joins several ranks
            layer.num_features = len(layer.running_mean)  # type: ignore[arg-type]
    return widths


def conv_out_channels(model: nn.Module) -> dict[str, int]:
    """The output channels of every convolution, by name."""
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)}
