"""Robust timing of function calls.

Calls are warmed up until their times converge, and repeated until the confidence interval of the median is narrow enough. Warnings state
why a median cannot be trusted.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

WINDOW = 5  # calls per running median during warm-up
CONVERGED_CHANGE = 0.05  # largest relative change between two such medians


@dataclass(frozen=True)
class Times:
    """Times of repeated calls.

    Attributes:
        seconds: time of each counted call, in order.
        warmup: number of warm-up calls before those.
        converged: whether the running median of the warm-up converged.
    """

    seconds: list[float]
    warmup: int
    converged: bool = True

    def percentiles(self, divisor: float = 1) -> dict[str, float]:
        """Compute the 50th, 90th and 99th percentile in milliseconds.

        Each is divided by ``divisor``, such as the batch size.
        """
        ordered = sorted(self.seconds)
        return {
            f"p{p}": 1000 * ordered[min(len(ordered) - 1, math.ceil(len(ordered) * p / 100) - 1)] / divisor for p in (50, 90, 99)
        }

    def warnings(self, ci_half_width: float) -> list[str]:
        """List the reasons not to trust the median.

        Args:
            ci_half_width: target half-width of its 95 % confidence interval, as a fraction of the median.
        """
        low, high = median_interval(self.seconds)
        median, messages = statistics.median(self.seconds), []
        if high - low > 2 * ci_half_width * median:
            half_width = (high - low) / median / 2
            messages.append(f"the median is known to ±{half_width:.0%}, target ±{ci_half_width:.0%}: increase max_seconds=")
        if not self.converged:
            messages.append(f"the warm-up of {self.warmup} calls did not converge, or was too short to tell: increase max_seconds=")
        if self.percentiles()["p90"] > 1.25 * self.percentiles()["p50"]:
            messages.append("the slowest tenth of the calls takes at least 25% longer than the median: the machine may be busy")
        return messages


def median_interval(seconds: Sequence[float]) -> tuple[float, float]:
    """Compute the 95 % confidence interval of the median.

    It consists of two order statistics, so it assumes nothing about the distribution.
    """
    ordered, count = sorted(seconds), len(seconds)
    half_range = 0.98 * math.sqrt(count)
    return ordered[max(0, math.floor(count / 2 - half_range))], ordered[min(count - 1, math.ceil(count / 2 + half_range))]


def measure(
    call: Callable[[], object], device: torch.device, *, max_seconds: float, ci_half_width: float, min_calls: int = 10
) -> Times:
    """Time a call until its median is known precisely enough.

    The warm-up ends when the running median converges. The counted calls end when the confidence interval of their median is narrow
    enough, or when the time is up.

    Args:
        call: the function to time, by events on the current stream if the device is CUDA.
        device: device of the call.
        max_seconds: maximum total time of the counted calls. The warm-up may take half as long in addition.
        ci_half_width: target half-width of the median's 95 % confidence interval, as a fraction of the median.
        min_calls: minimum number of counted calls, even if they take longer.
    """
    timed_call = _cuda_clock(call) if device.type == "cuda" else _clock(call)
    warmup: list[float] = []
    while not _has_converged(warmup):
        warmup.append(timed_call())
        if len(warmup) >= 3 and sum(warmup) > max_seconds / 2:
            break
    seconds: list[float] = []
    while len(seconds) < min_calls or sum(seconds) < max_seconds:
        seconds.append(timed_call())
        if len(seconds) >= 3 * min_calls and len(seconds) % min_calls == 0:
            low, high = median_interval(seconds)
            if high - low <= 2 * ci_half_width * statistics.median(seconds):
                break
    return Times(seconds, len(warmup), _has_converged(warmup))


class InterleavedTimes(NamedTuple):
    """Median ratio of two calls' times, and the times of the reference."""

    ratio: float
    reference_seconds: list[float]


def interleaved_ratio(
    call: Callable[[], object],
    reference: Callable[[], object],
    device: torch.device,
    *,
    max_seconds: float,
    ci_half_width: float,
    min_pairs: int = 10,
) -> InterleavedTimes:
    """Time two interleaved calls and compare them.

    Because the calls alternate, other load on the machine affects both.

    Args:
        call, reference: the functions to time. The ratio is the first divided by the second.
        device: device of both calls.
        max_seconds: maximum total time of the counted pairs.
        ci_half_width: target half-width of the ratio's 95 % confidence interval, as a fraction of the ratio.
        min_pairs: minimum number of counted pairs, even if they take longer.
    """
    timed_call, timed_reference = (_cuda_clock(each) if device.type == "cuda" else _clock(each) for each in (call, reference))
    for warmup_call in (timed_call, timed_reference, timed_call, timed_reference):
        warmup_call()
    ratios: list[float] = []
    reference_seconds: list[float] = []
    elapsed = 0.0
    while len(ratios) < min_pairs or elapsed < max_seconds:
        call_first = len(ratios) % 2 == 0
        first, second = (timed_call(), timed_reference()) if call_first else (timed_reference(), timed_call())
        call_time, reference_time = (first, second) if call_first else (second, first)
        ratios.append(call_time / reference_time)
        reference_seconds.append(reference_time)
        elapsed += call_time + reference_time
        if len(ratios) >= 2 * min_pairs and len(ratios) % min_pairs == 0:
            low, high = median_interval(ratios)
            if high - low <= 2 * ci_half_width * statistics.median(ratios):
                break
    return InterleavedTimes(statistics.median(ratios), reference_seconds)


def _has_converged(warmup: Sequence[float]) -> bool:
    """Compare the medians of the last two windows of calls."""
    if len(warmup) < 2 * WINDOW:
        return False
    last, previous = (statistics.median(warmup[-end - WINDOW : -end or None]) for end in (0, WINDOW))
    return abs(last - previous) <= CONVERGED_CHANGE * previous


def _clock(call: Callable[[], object]) -> Callable[[], float]:
    """Wrap a call to return its wall-clock time in seconds."""

    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return once


def _cuda_clock(call: Callable[[], object]) -> Callable[[], float]:
    """Wrap a call to return its time on the GPU in seconds."""

    def once() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    return once
