"""Channel counts that differ from the configuration.

Those of pruned models, and of networks for images other than RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from segzoo.layers.modes import eval_mode


@torch.no_grad()
def set_channel_widths_(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Load a state dict of any channel widths into a model.

    The model changes in place. Parameters stay the same objects and keep their memory format.

    Args:
        model: any model with the layers of the state dict.
        state: every parameter and persistent buffer by name, with as many dimensions as the model's own.

    Returns:
        The output channels of each convolution that is now narrower or wider, by name.

    Raises:
        ValueError: names are missing or unknown, or a kernel or the number of dimensions differs.
    """
    own = model.state_dict(keep_vars=True)  # the tensors themselves
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
        shape, strides = own[name].shape, own[name].stride()
        # is_contiguous() cannot tell for a 1x1 kernel
        channels_last = len(shape) == 4 and strides[1] == 1 and strides[3] == shape[1]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        # a copy in memory of its own: tensors of a file are not aligned, and on some CPUs alignment decides the last bit of a sum
        own[name].data = tensor.to(own[name].device, own[name].dtype, copy=True, memory_format=layout)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            before, first, second = layer.out_channels, layer.weight.shape[0], layer.weight.shape[1] * layer.groups
            transposed = isinstance(layer, nn.ConvTranspose2d)
            layer.out_channels, layer.in_channels = (second, first) if transposed else (first, second)
            if layer.out_channels != before:
                widths[name] = layer.out_channels
        elif isinstance(layer, _BatchNorm):  # the base class covers SyncBatchNorm too
            layer.num_features = len(layer.running_mean)  # type: ignore[arg-type]
    return widths


def conv_out_channels(model: nn.Module) -> dict[str, int]:
    """The output channels of every convolution, by name."""
    return {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)}


@torch.no_grad()
def set_input_channels_(model: nn.Module, channels: int) -> tuple[str, ...]:
    """Change the number of channels of the images that a network takes.

    The model changes in place. Every convolution that reads the image is replaced by its ``adapted_weight``.

    Args:
        model: a network for images of three channels.
        channels: number of channels of its images.

    Returns:
        The names of these convolutions.

    Raises:
        ValueError: no convolution reads the image.
    """
    convs = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    readers = {name: layer for name, layer in convs.items() if layer.in_channels == 3 and layer.groups == 1}
    if readers:
        others = _feature_readers(model, readers)
        readers = {name: layer for name, layer in readers.items() if name not in others}
    if not readers:
        raise ValueError(f"{type(model).__name__} has no convolution of 3 input channels, so it cannot take {channels}")
    for layer in readers.values():
        layer.in_channels, layer.weight = channels, nn.Parameter(adapted_weight(layer.weight, channels), layer.weight.requires_grad)
    return tuple(readers)


def _feature_readers(model: nn.Module, layers: Mapping[str, nn.Conv2d]) -> set[str]:
    """Find the convolutions that read a feature map, not the image.

    Their names are returned. Layers that are not run, such as those of unused branches, are not among them.
    """
    image = torch.zeros(1, 3, 64, 64, device=next(model.parameters()).device)
    images, others = Images(image), set()

    def hook(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0] not in images:
            others.add(name)

    with ExitStack() as hooks, eval_mode(model), images:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(partial(hook, name)).remove)
        model(image)
    return others


class Images(TorchFunctionMode):
    """Follow an image through all operations but convolutions in a ``with`` block.

    A tensor is ``in`` it if it is the image, or was made from it by resizing, padding or arithmetic.

    Args:
        image: the image.
    """

    def __init__(self, image: Tensor):
        super().__init__()
        self._tensors = {id(image): image}  # keeps them alive, so that no other tensor takes their place

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._tensors

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not F.conv2d and any(id(value) in self._tensors for value in tree_leaves((args, kwargs))):
            self._tensors |= {id(value): value for value in tree_leaves(result) if isinstance(value, Tensor)}
        return result


def adapted_weight(weight: Tensor, channels: int) -> Tensor:
    """Weights of a convolution for RGB, for images of other channels.

    As in timm: summed for one channel, which has the same output for a gray image. For others, channel i has the weights of channel
    i modulo 3, scaled by 3 / channels.

    Shapes:
        (O, 3, h, w) -> (O, channels, h, w)
    """
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight if channels == 3 else weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels] * (3 / channels)


def adapt_input_weights(names: tuple[str, ...], state: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Adapt the tensors of a network for RGB.

    Args:
        names: names of the convolutions that read the image, as ``set_input_channels_`` returns them.
        state: tensors by name. Those of other channels than 3 stay as they are.
        channels: number of channels of the images.
    """
    weights = (f"{name}.weight" for name in names)
    adapted = {name: adapted_weight(state[name], channels) for name in weights if name in state and state[name].shape[1] == 3}
    return {**state, **adapted}
