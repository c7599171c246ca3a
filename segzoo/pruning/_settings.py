"""What every pruner can be told, and how a ranking becomes a pruner with a name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

from segzoo.pruning._base import Allocation, Pruner, Rank, Target, Values
from segzoo.registry import PRUNERS, ConfigError, Range, settings_of

Ratio = Annotated[float, Range(0, 1, above=True)]
Wanted = Annotated[float, Range(0, None, above=True)]
Side = Annotated[int, Range(33, 8192)]


def pruner_settings(
    *,
    keep_ratio: Ratio = 0.5,
    keep_schedule: tuple[Ratio, ...] | None = None,
    start: Annotated[float, Range(0, 1)] = 0.5,
    allocation: Allocation = "uniform",
    round_to: Annotated[int, Range(1, None)] = 1,
    exclude: tuple[str, ...] = (),
    sparsity: Annotated[float, Range(0, None)] = 0.0,
    target_ms: Wanted | None = None,
    target_gmacs: Wanted | None = None,
    target_params: Wanted | None = None,
    hw: tuple[Side, Side] = (1024, 2048),
    runtime: str = "eager",
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "bf16",
) -> Callable[[Rank], Pruner]:
    """What every pruner can be told, whatever it ranks by.

    Args:
        keep_ratio: fraction of the channels to keep.
        keep_schedule: decreasing fractions to keep after each stage, instead of ``keep_ratio``.
        start: share of a training after which the first stage comes; the others follow evenly until its end.
        allocation: ``uniform``: the same share of every layer; ``global``: where they are worth least against their layer's mean; ``sensitivity``:
            so that each layer raises the loss alike, seen on some training images with one layer thinned at a time.
        round_to: channel counts are rounded to multiples of this.
        exclude: beginnings of layers' names that lose nothing.
        sparsity: weight of the sum of the norms' absolute scales in the training loss before the last stage.
        target_ms, target_gmacs, target_params: milliseconds an image, 10^9 multiply-adds or parameters that the network shall not
            exceed, one of them; the share is then searched for, instead of ``keep_ratio``.
        hw, runtime, precision: the image's size, and what the network is timed in.

    Raises:
        ConfigError: the shares do not fall, several of these say how many channels stay, or they cannot hold together.
    """
    targets = {"ms": target_ms, "gmacs": target_gmacs, "params": target_params}
    given = {kind: value for kind, value in targets.items() if value is not None}
    if len(given) + (keep_schedule is not None) > 1:
        words = ["keep_schedule"] * (keep_schedule is not None) + [f"target_{kind}" for kind in given]
        raise ConfigError(f"pruner.{' and pruner.'.join(words)} both say how many channels stay. Keep one.")
    ratios = keep_schedule or (keep_ratio,)
    if any(later >= earlier for earlier, later in zip(ratios, ratios[1:], strict=False)):
        raise ConfigError(f"pruner.keep_schedule={list(ratios)} must fall: each is a share of the channels there were at first")
    if start >= 1:
        raise ConfigError(
            "pruner.start=1 would prune after the last step, that is never: say how much of the training comes first, such as 0.5"
        )
    if given and allocation != "uniform" and start > 0:
        raise ConfigError(
            f"pruner.target_{next(iter(given))} with pruner.allocation={allocation} needs pruner.start=0: what the layers lose is decided when they lose "
            "it, so a share found before the training would miss the target. Or say pruner.allocation=uniform."
        )
    target = next((Target(kind, value, hw, runtime, precision) for kind, value in given.items()), None)
    return lambda rank: Pruner(rank, ratios, start, allocation, round_to, exclude, sparsity, target)


def register_criterion(**changed: Any) -> Callable[[Callable[..., Values]], Callable[..., Pruner]]:
    """Decorator: registers a pruner that goes by a ranking ``(model, channels, evidence, *, its own settings) -> Values``.

    Its settings are those of ``plan`` and the ranking's own, each with its default.

    Args:
        changed: defaults other than ``plan``'s.
    """

    def register(rank: Callable[..., Values]) -> Callable[..., Pruner]:
        own, shared = settings_of(rank), settings_of(pruner_settings)

        @functools.wraps(rank)
        def build(**given: Any) -> Pruner:
            mine = {name: value for name, value in given.items() if name in own}
            words = changed | {name: value for name, value in given.items() if name not in own}
            return pruner_settings(**words)(partial(rank, **mine))

        defaults = {name: setting.default for name, setting in (shared | own).items()} | changed
        types = {name: setting.type for name, setting in (shared | own).items()}
        build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=types[name])
                for name in types
            ]
        )
        return PRUNERS.register(build)

    return register
