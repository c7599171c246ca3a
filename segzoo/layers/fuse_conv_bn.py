"""Batch norms merged into the convolutions before them, for networks that no longer train."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fuse_conv_bn_(model: nn.Module) -> int:
    """Merges every batch norm into the convolution registered right before it, in place; the norm becomes an identity.

    Every block of this house registers a norm behind its convolution and calls them in that order. Must be given a model in
    evaluation mode; the merged model gives the same output up to rounding, has fewer layers, and cannot be trained on.

    Returns:
        How many norms were merged.

    Raises:
        ValueError: the model is in training mode, where a norm depends on its batch.
    """
    if model.training:
        raise ValueError("fold_norms_ was given a model in training mode, wanted evaluation: call eval() first")
    merged = 0
    for module in model.modules():
        children = list(module.named_children())
        for (_, conv), (name, norm) in zip(children, children[1:], strict=False):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels):
                continue
            parts = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *parts)  # type: ignore[arg-type]
            setattr(module, name, nn.Identity())
            merged += 1
    return merged
