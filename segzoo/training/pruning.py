"""Pruning inside a training: the network, the optimiser's moments and the running average lose the same channels at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segzoo.device import Precision
from segzoo.distributed import World
from segzoo.optim.ema import Average
from segzoo.training.calibration import Evidence

if TYPE_CHECKING:
    from segzoo.training.components import Parts
from segzoo.checkpoints.serialization import fingerprint
from segzoo.layers.channel_widths import widths_of


class Slimming:
    """Takes a pruner's stages as they come.

    Args:
        model: the network that is trained, as its configuration builds it.
        parts: its pruner, ``stages(total)``, ``pressed(model)`` and ``prune_(model, keep, evidence, first, agreed)``, of which None prunes
            nothing; the output channels that it had lost before; and the pictures that a pruner may want to see.
        total: optimiser steps of the run.
        formats: number format and device.
        world: the ranks, of which the first decides.

    Attributes:
        share: of the channels there were at first, those that are left; also kept in checkpoints, so that a run of another length
            neither repeats a stage nor forgets one.
        chosen_on: the hash of the network that the pruner has chosen channels on, where it has: the one it is given, which need not be
            the one that a checkpoint brings.
    """

    def __init__(self, model: nn.Module, parts: Parts, total: int, formats: Precision, world: World):
        self.model, self.pruner, self.world = model, parts.pruner, world
        self.stages = [] if parts.pruner is None else parts.pruner.stages(total)
        self.share = 1.0
        self.scales: Any = None  # those that are pressed; None as long as nobody asked since the last stage
        self.given, self.pruned = widths_of(model), dict(parts.widths)
        self.evidence = Evidence(model, parts, formats)
        self.chosen_on = None if getattr(parts.pruner, "chosen", None) is None else fingerprint(model)

    def due(self, step: int) -> bool:
        """Whether a stage comes before the step after ``step``."""
        return bool(self.left) and self.left[0][0] <= step

    @property
    def left(self) -> list[tuple[int, float]]:
        """The stages still to come: the step before which each does, and the share that stays."""
        return [stage for stage in self.stages if stage[1] < self.share]

    def press_(self) -> None:
        """Adds the gradient of the pruner's sparsity term to that of the loss; nothing once the last stage has been."""
        if not self.left:
            return
        if self.scales is None:
            self.scales = self.pruner.pressed(self.model)
        for scale, weight in self.scales:
            if scale.grad is not None:
                scale.grad.add_(scale.detach().sign() * weight)

    def widths(self) -> dict[str, int]:
        """The output channels of each convolution that has others than its configuration says."""
        changed = {name: width for name, width in widths_of(self.model).items() if width != self.given[name]}
        return self.pruned | changed

    def cut_(self, step: int, optimizer: Optimizer, average: Average) -> str:
        """One stage, in place; says what happened in a line.

        Args:
            step: optimiser steps done.
            optimizer: its moments lose what the parameters lose.
            average: of the weights; likewise.
        """
        keep = self.left[0][1]
        counted = sum(parameter.numel() for parameter in self.model.parameters())
        names: dict[Any, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        pruner: Any = self.pruner
        if self.chosen_on is not None and self.chosen_on != fingerprint(self.model):
            pruner = dataclasses.replace(pruner, chosen=None)  # those are channels of another network
        resize = pruner.prune_(self.model, keep, self.evidence, self.given, self.world.first)
        self.share, self.scales = keep, None
        for parameter, state in optimizer.state.items():
            parameter.grad = None
            state.update(
                {key: resize(names[parameter], value) for key, value in state.items() if isinstance(value, Tensor) and value.dim()}
            )
        lay_out_moments(optimizer)
        average.tensors = {name: resize(name, tensor) for name, tensor in average.tensors.items()}
        left = sum(parameter.numel() for parameter in self.model.parameters())
        return f"pruned to {keep:g} of its channels: {counted:,} -> {left:,} parameters"


def lay_out_moments(optimizer: Optimizer) -> None:
    """Brings an optimiser's moments into the memory order of their parameters, which fused kernels take for granted."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
