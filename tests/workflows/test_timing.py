"""Timing one can defend: it settles, knows how well it knows, and what the machine could do at most."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch

from segzoo.device import peak_memory, reset_peak_memory
from segzoo.workflows.benchmark import roofline as roofs
from segzoo.workflows.benchmark import timing
from segzoo.workflows.benchmark.roofline import roofline
from segzoo.workflows.benchmark.timing import Times, interleaved_ratio, measure, median_interval

CPU = torch.device("cpu")


def a_clock(monkeypatch, durations):
    """Replaces the clock by one on which the n-th call takes ``durations(n)`` seconds; returns the call."""
    now, calls = [0.0], count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += durations(next(calls))

    return call


def test_warm_up_lasts_until_times_settle(monkeypatch):
    found = measure(a_clock(monkeypatch, lambda n: 5.0 if n < 7 else 1.0), CPU, max_seconds=1000, ci_half_width=0.03)
    assert found.warmup >= 14 and set(found.seconds) == {1.0}
    assert not found.warnings(0.03)


def test_measuring_ends_once_the_median_is_known(monkeypatch):
    steady = measure(a_clock(monkeypatch, lambda n: 1.0), CPU, max_seconds=1000, ci_half_width=0.03)
    wild = measure(a_clock(monkeypatch, lambda n: 1.0 + n % 7), CPU, max_seconds=1000, ci_half_width=0.03)
    assert len(steady.seconds) == 30 and 200 < len(wild.seconds) <= 1000
    assert "one call in ten" in " ".join(wild.warnings(0.03))


def test_time_that_runs_out_is_a_doubt(monkeypatch):
    found = measure(a_clock(monkeypatch, lambda n: 1.0 + n % 5), CPU, max_seconds=20, ci_half_width=0.01)
    assert len(found.seconds) >= 10
    assert "known to" in found.warnings(0.01)[0] and "max_seconds=" in found.warnings(0.01)[0]


def test_times_that_never_settled_are_a_doubt(monkeypatch):
    found = measure(a_clock(monkeypatch, lambda n: 6.0), CPU, max_seconds=20, ci_half_width=0.03)
    assert found.warmup == 3 and "3 calls before had not settled" in " ".join(found.warnings(0.03))


def test_pairs_do_not_feel_a_machine_that_slows_down(monkeypatch):
    now, calls = [0.0], count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        def call():
            now[0] += seconds * (1 + next(calls) / 40)

        return call

    found = interleaved_ratio(taking(0.3), taking(0.5), CPU, max_seconds=1000, interval=0.02)
    assert found.ratio == pytest.approx(0.6, rel=0.02) and len(found.others) >= 10 and next(calls) < 100


def test_percentiles_are_order_statistics():
    times = Times([n / 1000 for n in range(100, 0, -1)], 0)
    assert times.percentiles() == {"p50": 50, "p90": 90, "p99": 99}
    assert times.percentiles(2)["p50"] == 25


def test_the_interval_of_the_median_covers_it():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = median_interval(list(rng.lognormal(0, 0.5, 40)))
        covered += low <= 1.0 <= high
    assert 0.93 <= covered / 400 <= 0.995


def test_roofline_counts_operations_and_bytes(monkeypatch):
    monkeypatch.setattr(roofs, "_best", lambda call, device: 0.5)
    assert roofline(CPU, torch.float32) == {"tflops": 2 * 2048**3 / 0.5 / 1e12, "gb_per_s": 2 * 2**28 / 0.5 / 1e9}


def test_memory_is_of_what_ran_since_it_was_forgotten():
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    np.ones(2**25)  # 256 MB, let go at once
    assert 200e6 < peak_memory(CPU) - before < 400e6
    reset_peak_memory(CPU)
    assert peak_memory(CPU) - before < 100e6
