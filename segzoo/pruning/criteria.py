"""Filters ranked by what is written in them, or at random as the control. Settings of all pruners: ``_plan.plan``."""

from __future__ import annotations

import zlib
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.pruning._base import CalibrationData, Values, filters
from segzoo.pruning._settings import register_criterion
from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim
from segzoo.registry import PRUNERS, ConfigError, Range


@PRUNERS.register
def none() -> None:
    """Removes nothing."""


@register_criterion()
def l1(model: nn.Module, channels: ChannelGraph, evidence: CalibrationData) -> Values:
    """Filters with the smallest sums of absolute weights go first. Li et al., ICLR 2017, arXiv:1608.08710; ICNet, sec. 3.4."""
    return _norms(model, 1)


@register_criterion()
def l2(model: nn.Module, channels: ChannelGraph, evidence: CalibrationData) -> Values:
    """Filters of the smallest Euclidean length go first."""
    return _norms(model, 2)


@register_criterion()
def random(model: nn.Module, channels: ChannelGraph, evidence: CalibrationData, *, seed: Annotated[int, Range(0)] = 0) -> Values:
    """Filters drawn by lot go: the control that any ranking must beat.

    Args:
        seed: of the draw.
    """

    def of(slot: ParamDim) -> Tensor:  # of its own lot, so that a resumed run draws the same
        lot = torch.Generator().manual_seed(zlib.crc32(slot.name.encode()) + seed)
        return torch.rand(len(channels.dims[slot]), generator=lot)

    return of


def _norms(model: nn.Module, order: int) -> Values:
    weights = dict(model.named_parameters())
    return lambda slot: torch.linalg.vector_norm(filters(weights[slot.name], slot), ord=order, dim=1)


@register_criterion(allocation="global", sparsity=1e-4)
def bn_scale(model: nn.Module, channels: ChannelGraph, evidence: CalibrationData) -> Values:
    """Channels whose batch norm scales them least go first. Network slimming: Liu et al., ICCV 2017, arXiv:1708.06519.

    The paper ranks all layers together; here that is relative to each layer's mean.

    Raises:
        ConfigError: a convolution has no batch norm behind it, as in VGG16 without them.
    """

    def of(slot: ParamDim) -> Tensor:
        norm = _following_batch_norm(model, slot)
        if norm is None:
            raise ConfigError(f"pruner=bn_scale: {slot.name} has no batch norm behind it. Take pruner=l1, or pruner.exclude it.")
        return norm.weight.detach().abs()

    return of


@register_criterion(allocation="global")
def taylor(model: nn.Module, channels: ChannelGraph, evidence: CalibrationData) -> Values:
    """Filters whose removal changes the loss least, to first order, go first. Molchanov et al., CVPR 2019, arXiv:1906.10771, eq. 8.

    The square of weight times gradient, summed over a filter, and its sum over some training images, frozen layers included. The
    paper ranks all layers together; here that is relative to each layer's mean. A layer that no gradient reaches, such as a head of
    training alone, gives the common share.
    """
    weights, found = dict(model.named_parameters()), {}
    for gradients in evidence.gradients():
        for slot in channels.producers:
            if slot.name in gradients:
                products = weights[slot.name].detach() * gradients[slot.name]
                found[slot] = found.get(slot, 0) + filters(products, slot).sum(1).square()
    return lambda slot: found.get(slot, torch.zeros(len(channels.dims[slot])))


def _following_batch_norm(model: nn.Module, slot: ParamDim) -> _BatchNorm | None:
    """The batch norm registered right behind the convolution of a weight; None where there is none."""
    path, _, name = slot.name.removesuffix(".weight").rpartition(".")
    children = list(model.get_submodule(path).named_children())
    names = [child for child, _ in children]
    behind = children[names.index(name) + 1 : names.index(name) + 2]
    return behind[0][1] if behind and isinstance(behind[0][1], _BatchNorm) else None
