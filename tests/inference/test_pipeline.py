"""Stages that overlap."""

from __future__ import annotations

import threading

import pytest

from segzoo.inference.pipeline import Stage, shares, slowest


def test_results_come_in_order_from_threads_that_overlap():
    barrier = threading.Barrier(3, timeout=20)  # passes only if three calls run at the same time

    def wait(number: int) -> int:
        barrier.wait()
        return number

    assert list(Stage("reading", 3).map(wait, range(9))) == list(range(9))


def test_two_stages_run_at_the_same_time():
    barrier = threading.Barrier(2, timeout=20)
    first, second = Stage("reading"), Stage("writing")

    def one(number: int) -> int:
        if number == 1:
            barrier.wait()
        return number

    def two(number: int) -> int:
        if number == 0:
            barrier.wait()
        return number

    assert list(second.map(two, first.map(one, range(2)))) == [0, 1]


def test_few_items_are_read_ahead():
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    results = Stage("reading", 2).map(lambda number: number, items())
    assert next(results) == 0 and len(taken) == 3
    results.close()


def test_an_item_alone_waits_for_the_others_and_keeps_the_order():
    running, seen, lock = set(), {}, threading.Lock()
    barrier = threading.Barrier(2, timeout=20)  # the two items before and after the one alone are in work together

    def work(number: int) -> int:
        with lock:
            running.add(number)
        if number != 2:
            barrier.wait()
        with lock:
            seen[number] = set(running)
        if number != 2:
            barrier.wait()
        running.discard(number)
        return number

    stage = Stage("network", 2)
    assert list(stage.map(work, range(5), lambda number: number == 2)) == list(range(5))
    assert seen == {0: {0, 1}, 1: {0, 1}, 2: {2}, 3: {3, 4}, 4: {3, 4}}


def test_an_item_alone_is_work_of_all_threads(monkeypatch):
    monkeypatch.setattr("segzoo.inference.pipeline.time.perf_counter", iter([0.0, 1.0, 1.0, 4.0]).__next__)
    stage = Stage("network", 3)
    assert list(stage.map(str, range(2), lambda number: number == 1)) == ["0", "1"] and stage.seconds == 1 + 3 * 3


def test_an_exception_stops_all_stages():
    started, threads = [], threading.active_count()

    def fail(number: int) -> int:
        started.append(number)
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        list(Stage("writing").map(fail, Stage("reading").map(lambda number: number, range(50))))
    assert started == [0] and threading.active_count() == threads


def test_the_busiest_stage_is_the_limit():
    stages = [Stage("reading", 4), Stage("network"), Stage("writing", 4)]
    for stage, seconds in zip(stages, (12.0, 6.0, 2.0), strict=True):
        stage.seconds = seconds
    assert slowest(stages).name == "network" and shares(stages) == {"reading": 0.6, "network": 0.3, "writing": 0.1}
    assert shares([Stage("reading")]) == {"reading": 0.0}
