"""Importance criteria, and random selection as the baseline.

``_settings.build_pruner`` describes the settings that all pruners share.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.pruning._base import CalibrationData, flatten_filters
from segzoo.pruning._settings import register_criterion
from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim
from segzoo.pruning.selection import FilterImportance
from segzoo.registry import PRUNERS, ConfigError, Seed


@PRUNERS.register
def none() -> None:
    """Prune nothing."""


@register_criterion()
def l1(model: nn.Module, graph: ChannelGraph, calibration: CalibrationData) -> FilterImportance:
    """L1 norm of each filter's weights.

    Li et al., ICLR 2017, arXiv:1608.08710, by which ICNet was halved. Channels that an addition ties together are ranked by the sum over
    all layers that produce them; the paper ranks those of a residual block by its projection shortcut alone.
    """
    return _weight_norm(model, 1)


@register_criterion()
def l2(model: nn.Module, graph: ChannelGraph, calibration: CalibrationData) -> FilterImportance:
    """L2 norm of each filter's weights."""
    return _weight_norm(model, 2)


@register_criterion()
def random(model: nn.Module, graph: ChannelGraph, calibration: CalibrationData, *, seed: Seed = 0) -> FilterImportance:
    """Random importance, the baseline that any criterion must beat.

    Args:
        seed: of the random numbers.
    """

    def importance(producer: ParamDim) -> Tensor:  # seeded per layer, so that a resumed run draws the same numbers
        generator = torch.Generator().manual_seed(zlib.crc32(producer.name.encode()) + seed)
        return torch.rand(len(graph.dims[producer]), generator=generator)

    return importance


def _weight_norm(model: nn.Module, order: int) -> FilterImportance:
    weights = dict(model.named_parameters())
    return lambda producer: torch.linalg.vector_norm(flatten_filters(weights[producer.name], producer), ord=order, dim=1)


@register_criterion(allocation="global", sparsity=1e-4)
def bn_scale(model: nn.Module, graph: ChannelGraph, calibration: CalibrationData) -> FilterImportance:
    """Absolute scale of the batch norm that follows a filter.

    Network slimming: Liu et al., ICCV 2017, arXiv:1708.06519. The paper ranks all layers together. Here that ranking is relative to the
    mean of each layer.

    Raises:
        ConfigError: a convolution has no batch norm after it, as in VGG-16 without batch norm.
    """

    def importance(producer: ParamDim) -> Tensor:
        batch_norm = _following_batch_norm(model, producer)
        if batch_norm is None:
            raise ConfigError(
                f"pruner=bn_scale: {producer.name} has no batch norm after it. Use pruner=l1, or add it to pruner.exclude."
            )
        return batch_norm.weight.detach().abs()

    return importance


@register_criterion(allocation="global")
def taylor(model: nn.Module, graph: ChannelGraph, calibration: CalibrationData) -> FilterImportance:
    """First-order estimate of the squared change in loss without a filter.

    Molchanov et al., CVPR 2019, arXiv:1906.10771, eq. 8: the square of the sum of weight times gradient over a filter, added up over some
    training images, frozen layers included. The paper ranks all layers together. Here that ranking is relative to the mean of each layer.
    A layer without gradients, such as a training-only head, keeps the common ratio.
    """
    weights, totals = dict(model.named_parameters()), {}
    for gradients in calibration.gradients():
        for producer in graph.producers:
            if producer.name in gradients:
                products = weights[producer.name].detach() * gradients[producer.name]
                totals[producer] = totals.get(producer, 0) + flatten_filters(products, producer).sum(1).square()
    return lambda producer: totals.get(producer, torch.zeros(len(graph.dims[producer])))


def _following_batch_norm(model: nn.Module, producer: ParamDim) -> _BatchNorm | None:
    """The batch norm registered right after a convolution, or None."""
    path, _, name = producer.name.removesuffix(".weight").rpartition(".")
    children = list(model.get_submodule(path).named_children())
    names = [child for child, _ in children]
    following = children[names.index(name) + 1 : names.index(name) + 2]
    return following[0][1] if following and isinstance(following[0][1], _BatchNorm) else None
