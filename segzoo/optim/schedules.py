"""Learning-rate schedules as plain functions of the step. They hold no state, so a resumed run is where it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from segzoo.registry import SCHEDULES, ConfigError, Range

Schedule = Callable[[int], float]
Count = Annotated[int, Range(0, None)]
Fraction = Annotated[float, Range(0, 1)]


@SCHEDULES.register
def poly(
    total_steps: int,
    *,
    power: Annotated[float, Range(0, None, above=True)] = 0.9,
    floor: Fraction = 0.0,
    warmup: Count = 0,
    warmup_factor: Fraction = 0.01,
) -> Schedule:
    """Falls as ``(1 - step / total_steps) ** power`` from 1 to ``floor``, every step: the rule of ParseNet, PSPNet and ICNet.

    Args:
        total_steps: length of the run.
        power: above 0; 1 is a straight line.
        floor: factor at the end, 0 to 1.
        warmup: steps of linear warm-up, which multiplies the curve.
        warmup_factor: where the warm-up starts, 0 to 1.

    Returns:
        ``step -> factor`` of the base rate, for steps from 0.

    Raises:
        ConfigError: the warm-up is longer than the run.
    """
    return _run(total_steps, lambda done: floor + (1 - floor) * (1 - done) ** power, warmup, warmup_factor)


@SCHEDULES.register
def cosine(total_steps: int, *, floor: Fraction = 0.0, warmup: Count = 0, warmup_factor: Fraction = 0.01) -> Schedule:
    """Falls along half a cosine from 1 to ``floor``. Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, without restarts.

    Args:
        total_steps: length of the run.
        floor: factor at the end, 0 to 1.
        warmup: steps of linear warm-up, which multiplies the curve.
        warmup_factor: where the warm-up starts, 0 to 1.

    Raises:
        ConfigError: the warm-up is longer than the run.
    """
    return _run(total_steps, lambda done: floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2, warmup, warmup_factor)


@SCHEDULES.register
def step(
    total_steps: int,
    *,
    every: Annotated[int, Range(1, None)] = 2000,
    gamma: Annotated[float, Range(0, 1, above=True)] = 0.1,
    warmup: Count = 0,
    warmup_factor: Fraction = 0.01,
) -> Schedule:
    """Multiplies the rate by ``gamma`` every so many steps: the rule of DeepLab v1.

    Args:
        total_steps: length of the run.
        every: steps between two falls.
        gamma: factor of each fall, above 0 to 1.
        warmup: steps of linear warm-up, which multiplies the curve.
        warmup_factor: where the warm-up starts, 0 to 1.

    Raises:
        ConfigError: the warm-up is longer than the run.
    """
    ramp = _run(total_steps, lambda done: 1.0, warmup, warmup_factor)
    return lambda step: ramp(step) * gamma ** (step // every)


@SCHEDULES.register
def fixed(total_steps: int, *, warmup: Count = 0, warmup_factor: Fraction = 0.01) -> Schedule:
    """Keeps the base rate: the rule of FCN.

    Args:
        total_steps: length of the run.
        warmup: steps of linear warm-up.
        warmup_factor: where the warm-up starts, 0 to 1.

    Raises:
        ConfigError: the warm-up is longer than the run.
    """
    return _run(total_steps, lambda done: 1.0, warmup, warmup_factor)


def _run(total_steps: int, curve: Callable[[float], float], warmup: int, warmup_factor: float) -> Schedule:
    """``curve`` of the share of the run that is done (0 to 1; stays at 1 after the end), times the warm-up."""
    if warmup > total_steps:
        raise ConfigError(
            f"schedule.warmup={warmup}: the run has only {total_steps} steps, so the rate would never be reached; "
            "set schedule.warmup=0 or make the run longer"
        )

    def factor(step: int) -> float:
        ramp = warmup_factor + (1 - warmup_factor) * step / warmup if step < warmup else 1.0
        return ramp * curve(min(step / total_steps, 1.0) if total_steps else 1.0)

    return factor
