"""Optimizers over named parameter groups.

Backbone, head, biases and normalization layers can each have their own learning rate and weight decay.
"""

from __future__ import annotations

import inspect
from typing import Annotated, TypeVar, cast

import torch
from torch import nn
from torch.optim import Optimizer

from segzoo.registry import OPTIMS, Range

Rate = Annotated[float, Range(0, 1e4, above=True)]
Decay = Annotated[float, Range(0, 100)]
Multiple = Annotated[float, Range(0, 1e4)]
Average = Range(0, 0.99999)  # factor of a running average
T = TypeVar("T", bound=Optimizer)


@OPTIMS.register
def sgd(
    model: nn.Module,
    *,
    lr: Rate = 0.01,
    momentum: Annotated[float, Average] = 0.9,
    weight_decay: Decay = 1e-4,
    nesterov: bool = False,
    head_lr_mult: Multiple = 1.0,
    bias_lr_mult: Multiple = 1.0,
    decay_norm_and_bias: bool = False,
) -> torch.optim.SGD:
    """Stochastic gradient descent with momentum.

    All five papers use it.

    Args:
        model: a model with a backbone, see ``parameter_groups``. Frozen parameters are left out.
        lr: base learning rate, above 0.
        momentum: factor of the previous step, 0 to 1.
        weight_decay: L2 penalty, at least 0.
        nesterov: Nesterov momentum. Requires a momentum above 0.
        head_lr_mult: multiple of ``lr`` for everything outside the backbone.
        bias_lr_mult: further multiple for the biases of convolutions and linear layers (2 in the Caffe recipes).
        decay_norm_and_bias: also apply weight decay to normalization layers and biases.

    Raises:
        ValueError: nothing is trainable, or nesterov without momentum.
    """
    groups = parameter_groups(model, lr, weight_decay, head_lr_mult, bias_lr_mult, decay_norm_and_bias)
    return without_compiler(torch.optim.SGD)(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=_can_fuse(model))


@OPTIMS.register
def adamw(
    model: nn.Module,
    *,
    lr: Rate = 1e-3,
    betas: Annotated[tuple[float, float], Average] = (0.9, 0.999),
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8,
    weight_decay: Decay = 0.01,
    head_lr_mult: Multiple = 1.0,
    bias_lr_mult: Multiple = 1.0,
    decay_norm_and_bias: bool = False,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay.

    Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101.

    Args:
        model: a model with a backbone, see ``parameter_groups``. Frozen parameters are left out.
        lr: base learning rate, above 0.
        betas: decay rates of the two running averages, 0 to below 1.
        eps: added to the denominator, above 0.
        weight_decay: each step multiplies weights by ``1 - lr * weight_decay``, at least 0.
        head_lr_mult: multiple of ``lr`` for everything outside the backbone.
        bias_lr_mult: further multiple for the biases of convolutions and linear layers.
        decay_norm_and_bias: also apply weight decay to normalization layers and biases.

    Raises:
        ValueError: nothing is trainable, or a beta is 1.
    """
    groups = parameter_groups(model, lr, weight_decay, head_lr_mult, bias_lr_mult, decay_norm_and_bias)
    return without_compiler(torch.optim.AdamW)(groups, lr=lr, betas=betas, eps=eps, fused=_can_fuse(model))


def without_compiler(optimizer: type[T]) -> type[T]:
    """Derive an optimizer that does not import PyTorch's compiler.

    PyTorch decorates these methods for ``torch.compile``, and their first call imports it, which doubles the time to import torch. Without
    the decorators they do the same, except that the optimizer itself cannot be compiled.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(optimizer.step))
    return cast("type[T]", type(optimizer.__name__, (optimizer,), methods))


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, head_lr_mult: float, bias_lr_mult: float, decay_norm_and_bias: bool
) -> list[dict]:
    """Sort trainable parameters into up to six named groups.

    Groups are named ``backbone`` or ``head``, then ``weight``, ``norm`` or ``bias``, as in ``head.bias``. Every trainable parameter
    is in exactly one. ``norm`` holds the parameters of at most one dimension outside convolutions and linear layers, such as the scales
    and shifts of normalization layers, unless the module sets ``decays``, which makes them weights. The backbone is
    ``model.backbone`` and every module whose ``uses_backbone_lr`` is true.

    Returns:
        A dict per group with ``name``, ``params``, ``base_lr`` (the trainer sets ``lr = base_lr * schedule(step)``), ``lr`` and
        ``weight_decay``.

    Raises:
        ValueError: nothing is trainable.
    """
    modules = [model.get_submodule("backbone"), *(m for m in model.modules() if getattr(m, "uses_backbone_lr", False))]
    backbone = {id(parameter) for module in modules for parameter in module.parameters()}
    kinds = ("weight", "norm", "bias")
    groups: dict[str, list[nn.Parameter]] = {f"{part}.{kind}": [] for part in ("backbone", "head") for kind in kinds}
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                part = "backbone" if id(parameter) in backbone else "head"
                groups[f"{part}.{_kind(module, name, parameter)}"].append(parameter)
    if not seen:
        raise ValueError("every parameter of the model is frozen, so there is nothing to train: unfreeze the head or the backbone")
    result = []
    for name, parameters in groups.items():
        if parameters:
            rate = lr * (head_lr_mult if name.startswith("head") else 1.0) * (bias_lr_mult if name.endswith("bias") else 1.0)
            decay = weight_decay if name.endswith("weight") or decay_norm_and_bias else 0.0
            result.append({"name": name, "params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay})
    return result


def _can_fuse(model: nn.Module) -> bool:
    """True if a fused optimizer kernel supports all parameters.

    On a CPU the fused kernel takes a tenth of the time for a network of many small layers.
    """
    return all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim > 1 or getattr(module, "decays", False):
        return "weight"
    is_linear = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    return "bias" if name == "bias" and is_linear else "norm"
