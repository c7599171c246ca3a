"""Interleaved timing of several calls in one process.

Measuring round by round exposes every call to the same load on the machine, so their ratio is stable where each time by itself is not.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from scipy.special import stdtrit

Name = TypeVar("Name")


def time_interleaved(
    calls: Mapping[Name, Callable[[], object]], *, seconds: float, min_rounds: int = 4, max_rounds: int = 30, warmup: int = 1
) -> dict[Name, list[float]]:
    """Time each call once per round, every second round in reverse order.

    Args:
        calls: The calls by name.
        seconds: Stop once the slowest call has taken this long in total.
        min_rounds, max_rounds: Limits on the number of rounds, whatever they take.
        warmup: Rounds at the start that are not timed.

    Returns:
        Seconds of each round, by the name of the call.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    while _rounds(taken) < min_rounds or (_rounds(taken) < max_rounds and max(map(sum, taken.values())) < seconds):
        for name in list(calls) if _rounds(taken) % 2 == 0 else list(calls)[::-1]:
            start = time.perf_counter()
            calls[name]()
            taken[name].append(time.perf_counter() - start)
    return taken


def compare_to_peer(times: Sequence[float], peer_times: Sequence[float]) -> dict[str, Any]:
    """Summarize paired times: medians and their ratio with its interval.

    Args:
        times, peer_times: Seconds of interleaved calls, at least three of each.

    Returns:
        ``pairs`` (their number), ``ours_ms`` and ``peer_ms`` (the medians, named as in all result files), and the keys of
        ``ratio_interval``.
    """
    medians = {"ours_ms": 1000 * statistics.median(times), "peer_ms": 1000 * statistics.median(peer_times)}
    return {"pairs": len(times)} | medians | ratio_interval(times, peer_times)


def ratio_interval(times: Sequence[float], peer_times: Sequence[float]) -> dict[str, float]:
    """Return the ratio of paired times with its 95 % interval.

    The interval comes from a t distribution on the logarithms.

    Args:
        times, peer_times: Seconds of interleaved calls, at least three of each.
    """
    logs = [math.log(a / b) for a, b in zip(times, peer_times, strict=True)]
    center, low, high = mean_interval(logs)
    return {"ratio": math.exp(center), "low": math.exp(low), "high": math.exp(high)}


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of values and its 95 % interval.

    The interval comes from a t distribution, so there have to be at least three values.
    """
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    center = statistics.fmean(values)
    return center, center - half, center + half


def _rounds(taken: Mapping[Any, list[float]]) -> int:
    return min(map(len, taken.values()))
