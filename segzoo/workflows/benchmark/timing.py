"""Times one can defend: warmed up until they settle, repeated until the median is known, with the reason when it is not."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

WINDOW = 5  # calls of which a median is taken while warming up
SETTLED_SPREAD = 0.05  # relative change between two such medians


@dataclass(frozen=True)
class Times:
    """What was measured.

    Attributes:
        seconds: of each counted call, in order.
        warmup: calls before those.
        settled: whether their median stood still in the end.
    """

    seconds: list[float]
    warmup: int
    settled: bool = True

    def percentiles(self, divisor: float = 1) -> dict[str, float]:
        """Milliseconds below which half, 90 % and 99 % of the calls stayed, each divided by ``divisor``."""
        ordered = sorted(self.seconds)
        return {
            f"p{p}": 1000 * ordered[min(len(ordered) - 1, math.ceil(len(ordered) * p / 100) - 1)] / divisor for p in (50, 90, 99)
        }

    def warnings(self, wanted: float) -> list[str]:
        """Why the median may not be trusted, in sentences; empty if it may."""
        low, high = median_interval(self.seconds)
        middle, found = statistics.median(self.seconds), []
        if high - low > 2 * wanted * middle:
            found.append(
                f"the median is known to {(high - low) / middle / 2:.0%} only, wanted {wanted:.0%}: give more time by seconds="
            )
        if not self.settled:
            found.append(
                f"the times of the {self.warmup} calls before had not settled when their time was spent: give more by seconds="
            )
        if self.percentiles()["p90"] > 1.25 * self.percentiles()["p50"]:
            found.append("one call in ten takes a quarter longer than the median: something else uses the machine")
        return found


def median_interval(seconds: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, free of any assumption on the distribution: two order statistics."""
    ordered, count = sorted(seconds), len(seconds)
    reach = 0.98 * math.sqrt(count)
    return ordered[max(0, math.floor(count / 2 - reach))], ordered[min(count - 1, math.ceil(count / 2 + reach))]


def measure(
    call: Callable[[], object], device: torch.device, *, max_seconds: float, ci_half_width: float, min_calls: int = 10
) -> Times:
    """Calls until the running median settles, then until its interval is narrow enough or the time is spent.

    Args:
        call: what to time; on CUDA it is timed by events on the current stream.
        device: where it runs.
        seconds: longest time for the counted calls; warming up may take half as long again.
        interval: half the width wanted of the median's 95 % interval, as a share of the median.
        least: fewest counted calls, even if they take longer.
    """
    once = _cuda_clock(call) if device.type == "cuda" else _clock(call)
    warm: list[float] = []
    while not _is_settled(warm):
        warm.append(once())
        if len(warm) >= 3 and sum(warm) > max_seconds / 2:
            break
    taken: list[float] = []
    while len(taken) < min_calls or sum(taken) < max_seconds:
        taken.append(once())
        if len(taken) >= 3 * min_calls and len(taken) % min_calls == 0:
            low, high = median_interval(taken)
            if high - low <= 2 * ci_half_width * statistics.median(taken):
                break
    return Times(taken, len(warm), _is_settled(warm))


class InterleavedTimes(NamedTuple):
    """What two calls taken in turns came to: the median ratio of their times, and the seconds of the second one."""

    ratio: float
    others: list[float]


def interleaved_ratio(
    call: Callable[[], object],
    other: Callable[[], object],
    device: torch.device,
    *,
    max_seconds: float,
    interval: float,
    min_pairs: int = 10,
) -> InterleavedTimes:
    """Two calls' times, taken in turns, so that whatever else uses the machine meets both.

    Args:
        call, other: what to time, the one by the other.
        device: where they run.
        seconds: longest time for the counted pairs.
        interval: half the width wanted of the median's 95 % interval, as a share of the median.
        least: fewest counted pairs, even if they take longer.
    """
    ours, theirs = (_cuda_clock(each) if device.type == "cuda" else _clock(each) for each in (call, other))
    for once in (ours, theirs, ours, theirs):
        once()
    ratios: list[float] = []
    others: list[float] = []
    spent = 0.0
    while len(ratios) < min_pairs or spent < max_seconds:
        first = ours() if len(ratios) % 2 == 0 else None
        second = theirs()
        first = ours() if first is None else first
        ratios.append(first / second)
        others.append(second)
        spent += first + second
        if len(ratios) >= 2 * min_pairs and len(ratios) % min_pairs == 0:
            low, high = median_interval(ratios)
            if high - low <= 2 * interval * statistics.median(ratios):
                break
    return InterleavedTimes(statistics.median(ratios), others)


def _is_settled(warm: Sequence[float]) -> bool:
    if len(warm) < 2 * WINDOW:
        return False
    last, previous = (statistics.median(warm[-end - WINDOW : -end or None]) for end in (0, WINDOW))
    return abs(last - previous) <= SETTLED_SPREAD * previous


def _clock(call: Callable[[], object]) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return once


def _cuda_clock(call: Callable[[], object]) -> Callable[[], float]:
    def once() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    return once
