"""Timing: warm-up, confidence intervals and the roofline."""

from __future__ import annotations

import mmap
from itertools import count

import numpy as np
import pytest
import torch

from segzoo.device import peak_memory, reset_peak_memory
from segzoo.workflows.benchmark import roofline as roofline_module
from segzoo.workflows.benchmark import timing
from segzoo.workflows.benchmark.roofline import roofline
from segzoo.workflows.benchmark.timing import Times, interleaved_ratio, measure, median_interval

CPU = torch.device("cpu")


def fake_call(monkeypatch, durations):
    """Replace the clock, and return a function whose n-th call takes ``durations(n)`` seconds."""
    now, calls = [0.0], count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += durations(next(calls))

    return call


def test_warm_up_lasts_until_times_converge(monkeypatch):
    times = measure(fake_call(monkeypatch, lambda n: 5.0 if n < 7 else 1.0), CPU, max_seconds=1000, ci_half_width=0.03)
    assert times.warmup >= 14 and set(times.seconds) == {1.0}
    assert not times.warnings(0.03)


def test_measuring_ends_once_the_median_is_known(monkeypatch):
    steady = measure(fake_call(monkeypatch, lambda n: 1.0), CPU, max_seconds=1000, ci_half_width=0.03)
    noisy = measure(fake_call(monkeypatch, lambda n: 1.0 + n % 7), CPU, max_seconds=1000, ci_half_width=0.03)
    assert len(steady.seconds) == 30 and 200 < len(noisy.seconds) <= 1000
    assert "the slowest tenth" in " ".join(noisy.warnings(0.03))


def test_a_wide_interval_gives_a_warning(monkeypatch):
    times = measure(fake_call(monkeypatch, lambda n: 1.0 + n % 5), CPU, max_seconds=20, ci_half_width=0.01)
    assert len(times.seconds) >= 10
    assert "known to" in times.warnings(0.01)[0] and "max_seconds=" in times.warnings(0.01)[0]


def test_a_warm_up_that_did_not_converge_gives_a_warning(monkeypatch):
    times = measure(fake_call(monkeypatch, lambda n: 6.0), CPU, max_seconds=20, ci_half_width=0.03)
    assert times.warmup == 3 and "warm-up of 3 calls did not converge" in " ".join(times.warnings(0.03))


def test_interleaved_calls_cancel_a_slowdown_of_the_machine(monkeypatch):
    now, calls = [0.0], count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        def call():
            now[0] += seconds * (1 + next(calls) / 40)

        return call

    times = interleaved_ratio(taking(0.3), taking(0.5), CPU, max_seconds=1000, ci_half_width=0.02)
    assert times.ratio == pytest.approx(0.6, rel=0.02) and len(times.reference_seconds) >= 10 and next(calls) < 100


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
    monkeypatch.setattr(roofline_module, "_best", lambda call, device: 0.5)
    assert roofline(CPU, torch.float32) == {"tflops": 2 * 2048**3 / 0.5 / 1e12, "gb_per_s": 2 * 2**28 / 0.5 / 1e9}


def test_peak_memory_restarts_after_a_reset():
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    with mmap.mmap(-1, 2**28) as block:  # 256 MB of fresh pages, where an array may reuse pages that the process kept
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
    assert 200e6 < peak_memory(CPU) - before < 400e6
    reset_peak_memory(CPU)
    assert peak_memory(CPU) - before < 100e6


def test_the_peak_is_the_fastest_call_of_the_faster_format(monkeypatch):
    durations = {torch.float32: 0.25, torch.bfloat16: 0.5}
    monkeypatch.setattr(roofline_module, "MATRIX_SIZE", {"cpu": 64})
    monkeypatch.setattr(roofline_module, "COPY_BYTES", {"cpu": 4096})
    monkeypatch.setattr(
        roofline_module, "_best", lambda call, device: durations[call.args[0].dtype] if hasattr(call, "args") else 1.0
    )
    assert roofline(CPU, torch.bfloat16)["tflops"] == 2 * 64**3 / 0.25 / 1e12
    monkeypatch.undo()
    call = fake_call(monkeypatch, lambda n: (0.3, 0.1, 0.2)[n % 3])
    assert roofline_module._best(call, CPU) == pytest.approx(0.1)
