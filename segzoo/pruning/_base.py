"""Structured pruning in one or several stages of a training."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.device import RuntimePrecision
from segzoo.layers.parameters import meta_copy
from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim, model_outputs, trace_channels
from segzoo.pruning.ranking import Allocation, Ranking
from segzoo.pruning.selection import FilterImportance, channel_importance, prunable_groups, select_channels
from segzoo.pruning.sensitivity import RATIOS, SensitivityCurve, scan_sensitivity
from segzoo.pruning.surgery import drop_channels, remove_channels_
from segzoo.registry import ConfigError
from segzoo.types import PlainDict

Criterion = Callable[..., FilterImportance]  # (model, graph, calibration, **settings of its own)
BroadcastFn = Callable[[Callable[[], set[int]]], set[int]]  # calls a function on one rank, returns its result on all
ResizeFn = Callable[[str, Tensor], Tensor]  # (parameter name, tensor of its shape) -> the tensor without the pruned channels


class CalibrationData(Protocol):
    """Loss and gradients of a model on a few images.

    Both describe the model as it is at the time of the call; see ``segzoo.training.calibration``.
    """

    def loss(self) -> float:
        """The mean loss."""
        ...

    def gradients(self) -> Iterator[Mapping[str, Tensor]]:
        """Yield the gradients of the loss by parameter name, batch by batch."""
        ...


class NoCalibration:
    """Calibration without images, for checks that depend on none."""

    def loss(self) -> float:
        return 0.0

    def gradients(self) -> Iterator[Mapping[str, Tensor]]:
        return iter(())


@dataclass(frozen=True)
class Target:
    """Upper limit on the size or latency of the pruned model.

    Attributes:
        kind: ``ms``, ``gmacs`` or ``params``.
        value: milliseconds from a decoded image to its labels, 10^9 multiply-adds, or parameters.
        hw: height and width of the image that is timed or counted.
        runtime, precision: runtime and number format that are timed.
    """

    kind: str
    value: float
    hw: tuple[int, int]
    runtime: str
    precision: RuntimePrecision


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Removes the least important channels of a model in stages.

    Attributes:
        criterion: name of the importance criterion, as in ``conf/pruner/``.
        settings: the criterion's own settings.
        importance: computes the importance of filters; called with the model, its channels, the calibration data and ``settings``.
        keep_ratios: fraction of the initial channels that is left after each stage.
        start: fraction of the training after which the first stage runs; the others follow at equal intervals until its end.
        allocation, round_to, exclude: see ``select_channels``; ``sensitivity`` lets every group of channels raise the loss alike.
        sparsity: weight of the L1 penalty on batch norm scales before the last stage; 0 for none.
        target: the limit for which the keep ratio has yet to be searched, by ``segzoo.workflows.prune.target_search``, or None.
        chosen: channels that the first stage removes, if already selected; None selects them when it runs.

    Raises:
        ConfigError: sensitivity allocation below the smallest ratio that is scanned, where it would equal ``uniform``.
    """

    criterion: str
    settings: PlainDict = field(default_factory=dict)
    importance: Criterion
    keep_ratios: tuple[float, ...]
    start: float
    allocation: Allocation
    round_to: int
    exclude: tuple[str, ...]
    sparsity: float = 0.0
    target: Target | None = None
    chosen: frozenset[int] | None = None

    def __post_init__(self) -> None:
        stage_ratios = [later / earlier for earlier, later in zip((1.0, *self.keep_ratios), self.keep_ratios, strict=False)]
        if self.allocation == "sensitivity" and self.target is None and min(stage_ratios) <= min(RATIOS):
            raise ConfigError(
                f"pruner.allocation=sensitivity measures layers with {', '.join(f'{ratio:.0%}' for ratio in RATIOS)} of their channels, so "
                f"at {min(stage_ratios):.0%} all layers would keep the same ratio. Set pruner.allocation=uniform, keep more channels, or "
                "prune in several stages, such as 'pruner.keep_schedule=[0.5,0.2]'."
            )

    def stages(self, total_steps: int) -> list[tuple[int, float]]:
        """Schedule the stages of a training.

        Returns:
            For each stage, the step before which it runs and the fraction of the initial channels left from then on.

        Raises:
            ConfigError: the training is too short for its stages.
        """
        count = len(self.keep_ratios)
        steps = [round((self.start + (1 - self.start) * i / count) * total_steps) for i in range(count)]
        if len({*steps, total_steps}) <= count:
            raise ConfigError(
                f"{total_steps} steps are too short for {count} pruning stages from pruner.start={self.start:g} on, each followed by at "
                "least one step. Increase steps, or use fewer stages."
            )
        return list(zip(steps, self.keep_ratios, strict=True))

    def check(self, model: nn.Module) -> None:
        """Check that a model can be pruned with these settings.

        A copy is pruned and run on the meta device.

        Args:
            model: on any device; it is not changed.

        Raises:
            ConfigError: it cannot.
        """
        graph = self.trace(model)
        layers = [producer.name.removesuffix(".weight") for producer in graph.producers]
        for prefix in self.exclude:
            if not any(layer.startswith(prefix) for layer in layers):
                prefixes = {".".join(layer.split(".")[:i]) for layer in layers for i in (1, 2, 3)}
                similar = ", ".join(difflib.get_close_matches(prefix, prefixes, 3, 0.4)) or layers[0]
                raise ConfigError(f"pruner.exclude={prefix} matches the start of no layer's name. Similar: {similar}.")
        importance = self.importance(model, graph, NoCalibration(), **self.settings)
        for _, group in prunable_groups(graph, self.exclude):
            for producer in graph.producers_of(group):
                importance(producer)
        self._dry_run(model, graph)

    def trace(self, model: nn.Module) -> ChannelGraph:
        """Trace the channels of a model.

        Those of excluded layers are not prunable.

        Raises:
            ConfigError: they cannot be traced, or none is prunable.
        """
        try:
            graph = trace_channels(model, exclude=self.exclude)
        except NotImplementedError as error:
            raise ConfigError(f"pruner: {str(error).splitlines()[0]}") from error
        if not graph.groups:
            raise ConfigError("pruner: no channel of this model can be removed. Exclude fewer layers, or set pruner=none.")
        return graph

    def _dry_run(self, model: nn.Module, graph: ChannelGraph) -> None:
        meta_model, keep_ratio = meta_copy(model), self.keep_ratios[-1]
        equal = {channel: 0.0 for group in graph.groups for channel in group}
        removed = select_channels(graph, equal, keep_ratio, round_to=self.round_to)
        largest = max(map(len, graph.groups))
        if not removed and keep_ratio < 1 and self.target is None and (self.allocation == "uniform" or largest <= self.round_to):
            raise ConfigError(
                f"pruner: keeping {keep_ratio:.4g} of the channels of each layer, rounded to multiples of {self.round_to}, removes none. Set a "
                "smaller pruner.keep_ratio or pruner.round_to."
            )
        remove_channels_(meta_model, graph, removed)
        try:
            model_outputs(meta_model)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"pruner: this model fails with fewer channels: {str(error).splitlines()[0]}. Its code contains fixed channel counts: read "
                "them from the feature maps, or pruner.exclude the layers that produce these."
            ) from error

    def ranking(self, model: nn.Module, calibration: CalibrationData) -> Ranking:
        """Rank the channels of a model by importance."""
        graph = self.trace(model)
        importance = channel_importance(graph, self.importance(model, graph, calibration, **self.settings), self.exclude)
        curves: Sequence[SensitivityCurve] = ()
        if self.allocation == "sensitivity":
            curves = scan_sensitivity(model, graph, importance, calibration.loss, self.exclude)
        return Ranking(graph, importance, curves, self.allocation, self.round_to, self.exclude)

    def prune_(
        self,
        model: nn.Module,
        keep_ratio: float,
        calibration: CalibrationData,
        initial_widths: Mapping[str, int] | None = None,
        broadcast: BroadcastFn = lambda select: select(),
    ) -> ResizeFn:
        """Remove channels in place.

        Args:
            model: the model to prune.
            keep_ratio: fraction of the channels to keep.
            calibration: of the model.
            initial_widths: see ``Ranking.select``.
            broadcast: makes all ranks of a distributed training remove the same channels.

        Returns:
            A function that removes the same channels from any tensor shaped like a parameter, such as an optimizer's moment.
        """
        graph = self.trace(model)
        chosen = self.chosen if keep_ratio == self.keep_ratios[0] else None

        def select() -> set[int]:
            return set(chosen) if chosen is not None else self.ranking(model, calibration).select(keep_ratio, initial_widths)

        removed = broadcast(select)
        remove_channels_(model, graph, removed)
        return lambda name, tensor: drop_channels(name, tensor, graph, removed)

    def sparsity_terms(self, model: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """Batch norm scales with their weights in the sparsity penalty.

        A weight is 0 for channels that are not prunable. The list is empty if ``sparsity`` is 0.
        """
        if not self.sparsity:
            return []
        graph = self.trace(model)
        prunable = {channel for _, group in prunable_groups(graph, self.exclude) for channel in group}
        terms = []
        for name, layer in model.named_modules():
            if isinstance(layer, _BatchNorm) and (channels := graph.dims.get(ParamDim(f"{name}.weight", 0))):
                weights = [self.sparsity * (channel in prunable) for channel in channels]
                terms.append((layer.weight, layer.weight.new_tensor(weights)))
        return terms


def flatten_filters(weight: Tensor, producer: ParamDim) -> Tensor:
    """Reshape a convolution's weight to (filters, everything else)."""
    return torch.movedim(weight.detach(), producer.dim, 0).flatten(1)
