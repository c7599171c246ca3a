"""Learning-rate schedules as functions of the step.

They hold no state, so a resumed run continues exactly where it stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from segzoo.registry import SCHEDULES, ConfigError, Range

Schedule = Callable[[int], float]
Count = Annotated[int, Range(0, 10**8)]
Fraction = Annotated[float, Range(0, 1)]


@SCHEDULES.register
def poly(
    total_steps: int,
    *,
    power: Annotated[float, Range(0, 100, above=True)] = 0.9,
    floor: Fraction = 0.0,
    warmup: Count = 0,
    warmup_factor: Fraction = 0.01,
    start: Count = 0,
) -> Schedule:
    """Polynomial decay from 1 to ``floor``.

    The factor falls as ``(1 - step / total_steps) ** power`` at every step. ParseNet, PSPNet and ICNet use it.

    Args:
        total_steps: length of the run in steps.
        power: exponent, above 0. 1 is linear.
        floor: factor at the end, 0 to 1.
        warmup: steps of linear warm-up, which multiplies the curve.
        warmup_factor: factor at the start of the warm-up, 0 to 1.
        start: step at which the schedule begins. A run that is resumed to train longer can begin it anew.

    Returns:
        A function from step, from 0, to a factor of the base rate.

    Raises:
        ConfigError: the run ends before the schedule starts or before the warm-up ends.
    """
    return _with_warmup(total_steps, lambda done: floor + (1 - floor) * (1 - done) ** power, warmup, warmup_factor, start)


@SCHEDULES.register
def cosine(
    total_steps: int, *, floor: Fraction = 0.0, warmup: Count = 0, warmup_factor: Fraction = 0.01, start: Count = 0
) -> Schedule:
    """Cosine decay from 1 to ``floor``.

    Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983, without restarts.

    Args:
        total_steps: length of the run in steps.
        floor: factor at the end, 0 to 1.
        warmup: steps of linear warm-up, which multiplies the curve.
        warmup_factor: factor at the start of the warm-up, 0 to 1.
        start: step at which the schedule begins. A run that is resumed to train longer can begin it anew.

    Raises:
        ConfigError: the run ends before the schedule starts or before the warm-up ends.
    """
    return _with_warmup(
        total_steps, lambda done: floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2, warmup, warmup_factor, start
    )


@SCHEDULES.register
def step(
    total_steps: int,
    *,
    every: Annotated[int, Range(1, 10**8)] = 2000,
    gamma: Annotated[float, Range(0, 1, above=True)] = 0.1,
    warmup: Count = 0,
    warmup_factor: Fraction = 0.01,
    start: Count = 0,
) -> Schedule:
    """Step decay: multiply the rate by ``gamma`` every ``every`` steps.

    DeepLab v1 uses it.

    Args:
        total_steps: length of the run in steps.
        every: steps between two decays.
        gamma: factor of each decay, above 0, at most 1.
        warmup: steps of linear warm-up, which multiplies the curve.
        warmup_factor: factor at the start of the warm-up, 0 to 1.
        start: step at which the schedule begins. A run that is resumed to train longer can begin it anew.

    Raises:
        ConfigError: the run ends before the schedule starts or before the warm-up ends.
    """
    ramp = _with_warmup(total_steps, lambda done: 1.0, warmup, warmup_factor, start)
    return lambda step: ramp(step) * gamma ** (max(step - start, 0) // every)


@SCHEDULES.register
def fixed(total_steps: int, *, warmup: Count = 0, warmup_factor: Fraction = 0.01, start: Count = 0) -> Schedule:
    """Constant rate after the warm-up.

    FCN uses it.

    Args:
        total_steps: length of the run in steps.
        warmup: steps of linear warm-up.
        warmup_factor: factor at the start of the warm-up, 0 to 1.
        start: step at which the schedule begins. A run that is resumed to train longer can begin it anew.

    Raises:
        ConfigError: the run ends before the schedule starts or before the warm-up ends.
    """
    return _with_warmup(total_steps, lambda done: 1.0, warmup, warmup_factor, start)


def _with_warmup(total_steps: int, curve: Callable[[float], float], warmup: int, warmup_factor: float, start: int) -> Schedule:
    """Combine a decay curve with a linear warm-up.

    ``curve`` receives the completed fraction of the schedule, 0 to 1. It is 0 before ``start``, and 1 for steps after the end.
    """
    length = total_steps - start
    if start and length <= 0:
        raise ConfigError(f"schedule.start={start}: the run has only {total_steps} steps. Set more steps, or schedule.start=0")
    if warmup > length:
        raise ConfigError(
            f"schedule.warmup={warmup}: the run has only {length} steps, so it would never reach the "
            "base rate: set schedule.warmup=0 or make the run longer"
        )

    def factor(step: int) -> float:
        done = max(step - start, 0)
        ramp = warmup_factor + (1 - warmup_factor) * done / warmup if done < warmup else 1.0
        return ramp * curve(min(done / length, 1.0) if length else 1.0)

    return factor
