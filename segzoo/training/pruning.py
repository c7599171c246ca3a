"""Pruning inside a training: the network, the optimizer's moments and the running average lose the same channels at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segzoo.device import Precision
from segzoo.distributed import Distributed
from segzoo.optim.ema import ModelEma
from segzoo.training.calibration import CalibrationSet

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents
from segzoo.checkpoints.serialization import state_dict_hash
from segzoo.layers.channel_widths import conv_out_channels


class ScheduledPruning:
    """Takes a pruner's stages as they come.

    Args:
        model: the network that is trained, as its configuration builds it.
        parts: its pruner, ``stages(total)``, ``pressed(model)`` and ``prune_(model, keep, evidence, first, agreed)``, of which None prunes
            nothing; the output channels that it had lost before; and the images that a pruner may want to see.
        total: optimizer steps of the run.
        formats: number format and device.
        world: the ranks, of which the first decides.

    Attributes:
        share: of the channels there were at first, those that are left; also kept in checkpoints, so that a run of another length
            neither repeats a stage nor forgets one.
        chosen_on: the hash of the network that the pruner has chosen channels on, where it has: the one it is given, which need not be
            the one that a checkpoint brings.
    """

    def __init__(self, model: nn.Module, parts: TrainingComponents, total: int, formats: Precision, world: Distributed):
        self.model, self.pruner, self.world = model, parts.pruner, world
        self.stages = [] if parts.pruner is None else parts.pruner.stages(total)
        self.keep_ratio = 1.0
        self.scales: Any = None  # those that are pressed; None as long as nobody asked since the last stage
        self.given, self.pruned = conv_out_channels(model), dict(parts.widths)
        self.calibration = CalibrationSet(model, parts, formats)
        self.chosen_on = None if getattr(parts.pruner, "chosen", None) is None else state_dict_hash(model)

    def is_due(self, step: int) -> bool:
        """Whether a stage comes before the step after ``step``."""
        return bool(self.remaining_stages) and self.remaining_stages[0][0] <= step

    @property
    def remaining_stages(self) -> list[tuple[int, float]]:
        """The stages still to come: the step before which each does, and the share that stays."""
        return [stage for stage in self.stages if stage[1] < self.keep_ratio]

    def add_sparsity_gradient_(self) -> None:
        """Adds the gradient of the pruner's sparsity term to that of the loss; nothing once the last stage has been."""
        if not self.remaining_stages:
            return
        if self.scales is None:
            self.scales = self.pruner.sparsity_terms(self.model)
        for scale, weight in self.scales:
            if scale.grad is not None:
                scale.grad.add_(scale.detach().sign() * weight)

    def widths(self) -> dict[str, int]:
        """The output channels of each convolution that has others than its configuration says."""
        changed = {name: width for name, width in conv_out_channels(self.model).items() if width != self.given[name]}
        return self.pruned | changed

    def prune_(self, step: int, optimizer: Optimizer, average: ModelEma) -> str:
        """One stage, in place; says what happened in a line.

        Args:
            step: optimizer steps done.
            optimizer: its moments lose what the parameters lose.
            average: of the weights; likewise.
        """
        keep = self.remaining_stages[0][1]
        counted = sum(parameter.numel() for parameter in self.model.parameters())
        names: dict[Any, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        pruner: Any = self.pruner
        if self.chosen_on is not None and self.chosen_on != state_dict_hash(self.model):
            pruner = dataclasses.replace(pruner, chosen=None)  # those are channels of another network
        resize = pruner.prune_(self.model, keep, self.calibration, self.given, self.world.run_on_rank0)
        self.keep_ratio, self.scales = keep, None
        for parameter, state in optimizer.state.items():
            parameter.grad = None
            state.update(
                {key: resize(names[parameter], value) for key, value in state.items() if isinstance(value, Tensor) and value.dim()}
            )
        match_memory_format_(optimizer)
        average.tensors = {name: resize(name, tensor) for name, tensor in average.tensors.items()}
        left = sum(parameter.numel() for parameter in self.model.parameters())
        return f"pruned to {keep:g} of its channels: {counted:,} -> {left:,} parameters"


def match_memory_format_(optimizer: Optimizer) -> None:
    """Brings an optimizer's moments into the memory order of their parameters, which fused kernels take for granted."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
