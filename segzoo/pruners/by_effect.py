"""Channels ranked by what they do to the network: how much their norm lets through, or what the loss would feel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.pruners._base import Evidence, Values, filters
from segzoo.pruners._plan import ranked
from segzoo.pruners.channels import Channels, Slot
from segzoo.registry import ConfigError


@ranked(how="global", sparsity=1e-4)
def bn_scale(model: nn.Module, channels: Channels, evidence: Evidence) -> Values:
    """Channels whose batch norm scales them least go first. Network slimming: Liu et al., ICCV 2017, arXiv:1708.06519.

    The paper ranks all layers together; here that is relative to each layer's mean.

    Raises:
        ConfigError: a convolution has no batch norm behind it, as in VGG16 without them.
    """

    def of(slot: Slot) -> Tensor:
        norm = _norm_behind(model, slot)
        if norm is None:
            raise ConfigError(f"pruner=bn_scale: {slot.name} has no batch norm behind it. Take pruner=l1, or pruner.exclude it.")
        return norm.weight.detach().abs()

    return of


@ranked(how="global")
def taylor(model: nn.Module, channels: Channels, evidence: Evidence) -> Values:
    """Filters whose removal changes the loss least, to first order, go first. Molchanov et al., CVPR 2019, arXiv:1906.10771, eq. 8.

    The square of weight times gradient, summed over a filter, and its sum over some training pictures, frozen layers included. The
    paper ranks all layers together; here that is relative to each layer's mean. A layer that no gradient reaches, such as a head of
    training alone, gives the common share.
    """
    weights, found = dict(model.named_parameters()), {}
    for gradients in evidence.gradients():
        for slot in channels.makers:
            if slot.name in gradients:
                products = weights[slot.name].detach() * gradients[slot.name]
                found[slot] = found.get(slot, 0) + filters(products, slot).sum(1).square()
    return lambda slot: found.get(slot, torch.zeros(len(channels.slots[slot])))


def _norm_behind(model: nn.Module, slot: Slot) -> _BatchNorm | None:
    """The batch norm registered right behind the convolution of a weight; None where there is none."""
    path, _, name = slot.name.removesuffix(".weight").rpartition(".")
    children = list(model.get_submodule(path).named_children())
    names = [child for child, _ in children]
    behind = children[names.index(name) + 1 : names.index(name) + 2]
    return behind[0][1] if behind and isinstance(behind[0][1], _BatchNorm) else None
