"""Activation checkpointing: less memory in training for a second forward pass.

Chen et al., arXiv:1604.06174.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import groupby

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segzoo.layers.modes import recomputation
from segzoo.registry import ConfigError


def run_checkpointed(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Run layers in order and recompute their activations in the backward pass.

    Only the input of each block is kept, and that of each run of single layers. Outputs, gradients and running statistics are exactly those
    of the layers by themselves: dropout draws the same numbers again, and batch norm does not count a batch twice.

    Raises:
        ConfigError: a block changes its input in place, so it cannot run a second time.
    """
    for is_block, group in groupby(layers, _is_block):
        for segment in ([block] for block in group) if is_block else [list(group)]:
            x = _run_segment(segment, x)
    return x


def _is_block(layer: nn.Module) -> bool:
    """Return True for a module around convolutions, not for a single layer."""
    return not isinstance(layer, nn.Conv2d) and any(isinstance(module, nn.Conv2d) for module in layer.modules())


def _run_segment(layers: list[nn.Module], x: Tensor) -> Tensor:
    while layers and getattr(layers[0], "inplace", False):  # an activation after the last stage's batch norm, which keeps little
        x = layers.pop(0)(x)
    if not layers:
        return x

    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    version = x._version
    output = checkpoint(run, x, use_reentrant=False, context_fn=lambda: (nullcontext(), recomputation(layers)))
    if x._version != version:
        raise ConfigError(
            f"backbone.checkpoint=true: {type(layers[0]).__name__} changes its input in place, so it cannot be computed again. Set "
            "backbone.checkpoint=false, or choose another backbone."
        )
    return output  # type: ignore[return-value]
