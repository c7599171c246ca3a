"""Settings shared by all pruners, and the registration of importance criteria."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from segzoo.device import RuntimePrecision
from segzoo.messages import Example
from segzoo.pruning._base import Criterion, Pruner, Target
from segzoo.pruning.ranking import Allocation
from segzoo.registry import PRUNERS, ConfigError, Range, settings_of
from segzoo.types import PlainDict, PlainMapping

Ratio = Annotated[float, Range(0, 1, above=True)]
Limit = Annotated[float, Range(0, 1e12, above=True)]
Size = Annotated[tuple[int, int], Range(33, 8192), Example([480, 640])]


def register_criterion(**defaults: object) -> Callable[[Criterion], PrunerBuilder]:
    """Register a pruner for an importance criterion, as a decorator.

    Its settings are those of ``build_pruner`` and the keyword-only parameters of the criterion.

    Args:
        defaults: defaults of the shared settings that differ for this criterion.
    """

    def register(criterion: Criterion) -> PrunerBuilder:
        builder = PrunerBuilder(criterion, defaults)
        PRUNERS.register(builder)
        return builder

    return register


class PrunerBuilder:
    """Builds the pruners of one importance criterion.

    Args:
        criterion: ``(model, graph, calibration, *, its own settings) -> importance of filters``.
        defaults: defaults of the shared settings that differ for this criterion.

    Attributes:
        settings: shared and own settings, each with its default; read by ``settings_of``.
    """

    def __init__(self, criterion: Criterion, defaults: PlainDict):
        functools.update_wrapper(self, criterion)
        self.criterion, self.own_settings = criterion, settings_of(criterion)
        settings = settings_of(build_pruner) | self.own_settings
        self.settings = {name: replace(s, default=defaults.get(name, s.default)) for name, s in settings.items()}

    def __call__(self, **values: Any) -> Pruner:
        values = {name: setting.default for name, setting in self.settings.items()} | values
        own_values = {name: values.pop(name) for name in self.own_settings}
        return build_pruner(self.criterion, own_values, **values)


def build_pruner(
    criterion: Criterion,
    settings: PlainDict,
    *,
    keep_ratio: Ratio = 0.5,
    keep_schedule: tuple[Ratio, ...] | None = None,
    start: Annotated[float, Range(0, 1)] = 0.5,
    allocation: Allocation = "uniform",
    round_to: Annotated[int, Range(1, 4096)] = 1,
    exclude: tuple[str, ...] = (),
    sparsity: Annotated[float, Range(0, 100)] = 0.0,
    target_ms: Limit | None = None,
    target_gmacs: Limit | None = None,
    target_params: Limit | None = None,
    hw: Size = (1024, 2048),
    runtime: str = "eager",
    precision: RuntimePrecision = "bf16",
) -> Pruner:
    """Build a pruner.

    The keyword-only parameters are settings of every pruner.

    Args:
        criterion: the importance criterion.
        settings: of the criterion.
        keep_ratio: fraction of the channels to keep.
        keep_schedule: decreasing fractions to keep after each stage, instead of ``keep_ratio``.
        start: fraction of the training after which the first stage runs; the others follow at equal intervals until its end.
        allocation: ``uniform``: the same ratio in every layer; ``global``: the least important channels of all layers, by importance
            relative to their layer's mean; ``sensitivity``: per-layer ratios that raise the loss equally, from a layer-by-layer scan on
            some training images.
        round_to: round channel counts to multiples of this.
        exclude: prefixes of the names of layers to keep whole.
        sparsity: weight of the L1 penalty on batch norm scales before the last stage.
        target_ms, target_gmacs, target_params: largest latency in milliseconds per image, 10^9 multiply-adds or number of parameters;
            with one of them the keep ratio is searched for, instead of ``keep_ratio``.
        hw, runtime, precision: image size, runtime and number format of the target.

    Raises:
        ConfigError: the schedule does not decrease, several settings determine how many channels are kept, or they exclude each other.
    """
    targets = {"ms": target_ms, "gmacs": target_gmacs, "params": target_params}
    targets = {kind: value for kind, value in targets.items() if value is not None}
    ratios = keep_schedule or (keep_ratio,)
    _check_combination(keep_schedule, ratios, start, allocation, targets)
    return Pruner(
        criterion=criterion.__name__,
        settings=settings,
        importance=criterion,
        keep_ratios=ratios,
        start=start,
        allocation=allocation,
        round_to=round_to,
        exclude=exclude,
        sparsity=sparsity,
        target=next((Target(kind, value, hw, runtime, precision) for kind, value in targets.items()), None),
    )


def _check_combination(
    keep_schedule: tuple[float, ...] | None, ratios: tuple[float, ...], start: float, allocation: Allocation, targets: PlainMapping
) -> None:
    """Reject settings that exclude each other."""
    if len(targets) + (keep_schedule is not None) > 1:
        names = ["keep_schedule"] * (keep_schedule is not None) + [f"target_{kind}" for kind in targets]
        raise ConfigError(f"pruner.{' and pruner.'.join(names)} each determine how many channels are kept. Set only one of them.")
    if any(later >= earlier for earlier, later in zip(ratios, ratios[1:], strict=False)):
        raise ConfigError(f"pruner.keep_schedule={list(ratios)} must decrease: each value is a fraction of the initial channels")
    if start >= 1:
        raise ConfigError(
            "pruner.start=1 would prune after the last step, that is, never. Set the fraction of the training before the first stage, "
            "such as 0.5."
        )
    if targets and allocation != "uniform" and start > 0:
        raise ConfigError(
            f"pruner.target_{next(iter(targets))} with pruner.allocation={allocation} needs pruner.start=0: the ratio of each layer is "
            "decided when it is pruned, so a keep ratio found before the training would miss the target. Or set pruner.allocation=uniform."
        )
