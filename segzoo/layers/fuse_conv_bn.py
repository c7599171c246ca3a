"""Fusion of batch norm into convolutions, for inference only."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fuse_conv_bn_(model: nn.Module) -> int:
    """Fuse every batch norm into the convolution registered right before it.

    The model changes in place: the batch norm becomes an identity, or the activation inside it, as in timm. This relies on every block
    registering a batch norm directly after its convolution and calling the two in that order. Convolutions that standardize their
    weights in every forward pass (``eps``) are left as they are. The model must be in evaluation mode. The fused model computes
    the same output up to rounding, has fewer layers, and cannot be trained.

    Returns:
        The number of batch norm layers that were fused.

    Raises:
        ValueError: the model is in training mode, where batch norm depends on the batch.
    """
    if model.training:
        raise ValueError("fuse_conv_bn_ received a model in training mode, expected evaluation mode: call eval() first")
    fused = 0
    for module in model.modules():
        children = list(module.named_children())
        for (_, conv), (name, norm) in zip(children, children[1:], strict=False):
            if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels):
                continue
            if hasattr(conv, "eps"):
                continue
            statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)  # type: ignore[arg-type]
            setattr(module, name, nn.Sequential(*norm.children()))  # empty, unless the batch norm has an activation inside
            fused += 1
    return fused
