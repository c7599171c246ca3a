"""Optimisers over named parameter groups, so that backbone, head, biases and norms can each have their own rate and decay."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import nn

from segzoo.registry import OPTIMS, Range

Rate = Annotated[float, Range(0, None, above=True)]
Fraction = Annotated[float, Range(0, None)]


@OPTIMS.register
def sgd(
    model: nn.Module,
    *,
    lr: Rate = 0.01,
    momentum: Annotated[float, Range(0, 1)] = 0.9,
    weight_decay: Fraction = 1e-4,
    nesterov: bool = False,
    head_lr_mult: Fraction = 1.0,
    bias_lr_mult: Fraction = 1.0,
    decay_norm_and_bias: bool = False,
) -> torch.optim.SGD:
    """Stochastic gradient descent with momentum: what all five papers train with.

    Args:
        model: a model with a backbone (see ``parameter_groups``); frozen parameters are left out.
        lr: base learning rate, above 0.
        momentum: share of the last step that is kept, 0 to 1.
        weight_decay: L2 penalty, at least 0.
        nesterov: look ahead along the momentum; wants momentum above 0.
        head_lr_mult: the rate of everything outside the backbone, as a multiple of ``lr``.
        bias_lr_mult: the rate of biases of convolutions and linear layers, as a further multiple (the Caffe recipes: 2).
        decay_norm_and_bias: decay norms, scales and biases too.

    Raises:
        ValueError: nothing is trainable; nesterov without momentum.
    """
    groups = parameter_groups(model, lr, weight_decay, head_lr_mult, bias_lr_mult, decay_norm_and_bias)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=_can_fuse(model))


@OPTIMS.register
def adamw(
    model: nn.Module,
    *,
    lr: Rate = 1e-3,
    betas: Annotated[tuple[float, float], Range(0, 1)] = (0.9, 0.999),
    eps: Rate = 1e-8,
    weight_decay: Fraction = 0.01,
    head_lr_mult: Fraction = 1.0,
    bias_lr_mult: Fraction = 1.0,
    decay_norm_and_bias: bool = False,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay. Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101.

    Args:
        model: a model with a backbone (see ``parameter_groups``); frozen parameters are left out.
        lr: base learning rate, above 0.
        betas: decay rates of the two running means, 0 to below 1.
        eps: added to the denominator, above 0.
        weight_decay: share of ``lr`` by which weights shrink a step, at least 0.
        head_lr_mult: the rate of everything outside the backbone, as a multiple of ``lr``.
        bias_lr_mult: the rate of biases of convolutions and linear layers, as a further multiple.
        decay_norm_and_bias: decay norms, scales and biases too.

    Raises:
        ValueError: nothing is trainable; a beta is 1.
    """
    groups = parameter_groups(model, lr, weight_decay, head_lr_mult, bias_lr_mult, decay_norm_and_bias)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=_can_fuse(model))


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float, head_lr_mult: float, bias_lr_mult: float, decay_norm_and_bias: bool
) -> list[dict]:
    """Up to six groups, ``trunk`` or ``head`` times ``weight``, ``norm`` or ``bias``; every trainable parameter is in exactly one.

    Each group has ``name``, ``base_lr`` (the trainer sets ``lr = base_lr * schedule(step)``), ``lr`` and ``weight_decay``. A norm
    is any parameter of at most one dimension outside convolutions and linear layers: the scale and shift of a norm, or a learned scale.
    The backbone is ``model.backbone`` and every module whose ``copies_vgg`` is true: layers of a head that the backbone was trained with.

    Raises:
        ValueError: nothing is trainable.
    """
    trunks = [model.get_submodule("backbone"), *(module for module in model.modules() if getattr(module, "copies_vgg", False))]
    trunk = {id(parameter) for module in trunks for parameter in module.parameters()}
    groups: dict[str, list[nn.Parameter]] = {
        f"{part}.{kind}": [] for part in ("trunk", "head") for kind in ("weight", "norm", "bias")
    }
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups[f"{'trunk' if id(parameter) in trunk else 'head'}.{_kind(module, name, parameter)}"].append(parameter)
    if not seen:
        raise ValueError("every parameter of the model is frozen, so there is nothing to train; unfreeze the head or the backbone")
    return [
        {
            "name": name,
            "params": parameters,
            "lr": (
                rate := lr * (head_lr_mult if name.startswith("head") else 1.0) * (bias_lr_mult if name.endswith("bias") else 1.0)
            ),
            "base_lr": rate,
            "weight_decay": weight_decay if name.endswith("weight") or decay_norm_and_bias else 0.0,
        }
        for name, parameters in groups.items()
        if parameters
    ]


def _can_fuse(model: nn.Module) -> bool:
    """Whether one kernel may update all parameters; on a CPU that takes a tenth of the time for a network of many small layers."""
    return all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if parameter.ndim > 1:
        return "weight"
    is_linear = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    return "bias" if name == "bias" and is_linear else "norm"
