"""Pruning during a training.

The same channels are removed from the model, the optimizer's moments and the moving average of the weights.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segzoo.checkpoints.serialization import state_dict_hash
from segzoo.device import Precision
from segzoo.distributed import Distributed
from segzoo.layers.channel_widths import conv_out_channels
from segzoo.layers.parameters import count_parameters
from segzoo.optim.ema import ModelEma
from segzoo.training.calibration import CalibrationSet

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents


class ScheduledPruning:
    """Runs the stages of a pruner at their steps.

    Without a pruner it does nothing.

    Args:
        model: the model in training, as its configuration builds it.
        components: provide the pruner, the widths changed by a previous pruning, and the data for importance criteria.
        total_steps: optimizer steps of the run.
        precision: number format and device.
        dist: the ranks. Rank 0 selects the channels for all.

    Attributes:
        keep_ratio: fraction of the original channels that is left. Checkpoints store it, so a resumed run of another length neither
            repeats nor skips a stage.
        chosen_on: hash of the weights for which the pruner selected its channels in advance, or None. The selection is discarded if a
            checkpoint has replaced these weights since.
    """

    def __init__(self, model: nn.Module, components: TrainingComponents, total_steps: int, precision: Precision, dist: Distributed):
        self.model, self.pruner, self.dist = model, components.pruner, dist
        self.stages = [] if components.pruner is None else components.pruner.stages(total_steps)
        self.keep_ratio = 1.0
        self.sparsity_terms: list[tuple[nn.Parameter, Tensor]] | None = None  # computed at first use after a stage
        self.initial_widths, self.pruned_before = conv_out_channels(model), dict(components.widths)
        self.calibration = CalibrationSet(model, components, precision)
        self.chosen_on = None if getattr(components.pruner, "chosen", None) is None else state_dict_hash(model)

    @property
    def remaining_stages(self) -> list[tuple[int, float]]:
        """Remaining stages, each a step and the keep ratio from there on."""
        return [stage for stage in self.stages if stage[1] < self.keep_ratio]

    @property
    def stages_done(self) -> int:
        return len(self.stages) - len(self.remaining_stages)

    def is_due(self, step: int) -> bool:
        """Return True if a stage runs right after ``step``."""
        return bool(self.remaining_stages) and self.remaining_stages[0][0] <= step

    def add_sparsity_gradient_(self) -> None:
        """Add the gradient of the pruner's sparsity penalty.

        The penalty ends with the last stage.
        """
        if self.pruner is None or not self.remaining_stages:
            return
        if self.sparsity_terms is None:
            self.sparsity_terms = self.pruner.sparsity_terms(self.model)
        for scale, weight in self.sparsity_terms:
            if scale.grad is not None:
                scale.grad.add_(scale.detach().sign() * weight)

    def changed_widths(self) -> dict[str, int]:
        """Return output channels of convolutions that differ from the configuration."""
        widths = conv_out_channels(self.model)
        return self.pruned_before | {name: width for name, width in widths.items() if width != self.initial_widths[name]}

    def prune_(self, optimizer: Optimizer, ema: ModelEma) -> str:
        """Run the next stage in place.

        Args:
            optimizer: its moments are pruned like the parameters.
            ema: its averages are pruned like the parameters.

        Returns:
            A line for the log.
        """
        assert self.pruner is not None
        keep_ratio = self.remaining_stages[0][1]
        params_before = count_parameters(self.model)
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        pruner = self.pruner
        if self.chosen_on is not None and self.chosen_on != state_dict_hash(self.model):
            pruner = dataclasses.replace(pruner, chosen=None)
        resize = pruner.prune_(self.model, keep_ratio, self.calibration, self.initial_widths, self.dist.run_on_rank0)
        self.keep_ratio, self.sparsity_terms = keep_ratio, None
        for parameter, moments in optimizer.state.items():
            parameter.grad = None
            moments.update(
                {
                    key: resize(names[parameter], value)
                    for key, value in moments.items()
                    if isinstance(value, Tensor) and value.dim()
                }
            )
        match_memory_format_(optimizer)
        ema.tensors = {name: resize(name, tensor) for name, tensor in ema.tensors.items()}
        params_after = count_parameters(self.model)
        return f"pruned to {keep_ratio:g} of the channels: {params_before:,} -> {params_after:,} parameters"


def match_memory_format_(optimizer: Optimizer) -> None:
    """Give optimizer moments the memory format of their parameters.

    Fused kernels require it.
    """
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
