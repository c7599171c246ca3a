"""Calls timed in turns in one process, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from benchmarks.harness.result_files import ratio_interval

Name = TypeVar("Name")


def in_turns(
    calls: Mapping[Name, Callable[[], object]], *, seconds: float, least: int = 4, most: int = 30, warm: int = 1
) -> dict[Name, list[float]]:
    """Seconds of each call, in rounds of which every second one runs backwards.

    Args:
        calls: by name.
        seconds: rounds end once the longest call has taken that long altogether.
        least, most: rounds, whatever they take.
        warm: uncounted rounds at the start.
    """
    for _ in range(warm):
        for call in calls.values():
            call()
    taken: dict[Name, list[float]] = {name: [] for name in calls}
    while _rounds(taken) < least or (_rounds(taken) < most and max(map(sum, taken.values())) < seconds):
        for name in list(calls) if _rounds(taken) % 2 == 0 else list(calls)[::-1]:
            start = time.perf_counter()
            calls[name]()
            taken[name].append(time.perf_counter() - start)
    return taken


def compared(taken: Mapping[str, list[float]]) -> dict[str, Any]:
    """Median milliseconds of ``ours`` and ``peer``, how many pairs, and their ratio with its 95 % interval."""
    medians = {f"{side}_ms": 1000 * statistics.median(taken[side]) for side in ("ours", "peer")}
    return {"pairs": len(taken["ours"])} | medians | ratio_interval(taken["ours"], taken["peer"])


def _rounds(taken: Mapping[Any, list[float]]) -> int:
    return min(map(len, taken.values()))
