"""Micro-batching of requests."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from segzoo.workflows.serve import batching
from segzoo.workflows.serve.batching import BatchQueue


class Gated:
    """A network that runs its first batch once ``go`` is set."""

    def __init__(self, fail_on=()):
        self.started, self.go, self.batches, self.fail_on = threading.Event(), threading.Event(), [], fail_on

    def __call__(self, key, items):
        self.started.set()
        assert self.go.wait(10)
        self.batches.append((key, list(items)))
        if set(items) & set(self.fail_on):
            raise ValueError(f"cannot do {items}")
        return [(key, item) for item in items]


def gathered(process, entries, **options):
    """Results of items that all wait while the first one runs."""
    queue = BatchQueue(process, options.pop("max_batch", lambda key: 3), options.pop("wait", 0.0))
    first = queue.submit("first", -1)
    assert process.started.wait(10)
    futures = [queue.submit(key, item) for key, item in entries]
    process.go.set()
    queue.close()
    assert first.result(0).value == ("first", -1)
    return futures


def test_items_of_one_key_run_together_and_keep_their_results():
    process = Gated()
    entries = [("a", 0), ("b", 1), ("a", 2), ("a", 3), ("b", 4), ("a", 5)]
    futures = gathered(process, entries)
    assert process.batches[1:] == [("a", [0, 2, 3]), ("b", [1, 4]), ("a", [5])]
    assert [future.result(0).value for future in futures] == entries
    assert [future.result(0).batch for future in futures] == [3, 2, 3, 3, 2, 1]


def test_the_limit_may_depend_on_the_key():
    process = Gated()
    gathered(process, [("big", 0), ("big", 1), ("small", 2), ("small", 3)], max_batch=lambda key: 1 if key == "big" else 8)
    assert process.batches[1:] == [("big", [0]), ("big", [1]), ("small", [2, 3])]


def test_a_full_batch_does_not_wait():
    process = Gated()
    process.go.set()
    queue = BatchQueue(process, lambda key: 2, wait=3600)
    futures = [queue.submit("a", item) for item in range(2)]
    assert [future.result(10).value for future in futures] == [("a", 0), ("a", 1)]
    alone = queue.submit("a", 2)
    queue.close()  # neither does the end
    assert alone.result(0).batch == 1


def test_an_item_that_fails_spares_the_others():
    futures = gathered(Gated(fail_on=[1]), [("a", 0), ("a", 1), ("a", 2)])
    assert futures[0].result(0).value == ("a", 0) and futures[2].result(0).value == ("a", 2)
    with pytest.raises(ValueError, match=r"cannot do \[1\]"):
        futures[1].result(0)


def test_canceled_items_are_dropped():
    process = Gated()
    queue = BatchQueue(process, lambda key: 8, 0.0)
    queue.submit("first", -1)
    assert process.started.wait(10)
    canceled, kept = queue.submit("a", 0), queue.submit("a", 1)
    assert canceled.cancel()
    process.go.set()
    queue.close()
    assert process.batches[1:] == [("a", [1])] and kept.result(0).batch == 1


def test_a_closed_queue_takes_nothing():
    queue = BatchQueue(lambda key, items: items, lambda key: 1, 0.0)
    queue.close()
    with pytest.raises(RuntimeError, match="closed"):
        queue.submit("a", 0)
    assert len(queue) == 0


def test_the_seconds_of_an_item_are_averaged_over_batches(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(batching, "time", SimpleNamespace(monotonic=lambda: now[0]))

    class OneSecond(Gated):
        def __call__(self, key, items):
            values = super().__call__(key, items)
            now[0] += 1.0
            return values

    process = OneSecond()
    queue = BatchQueue(process, lambda key: 2, 0.0)
    first = queue.submit("first", -1)
    assert process.started.wait(10)
    pair = [queue.submit("a", item) for item in range(2)]
    process.go.set()
    queue.close()
    assert queue.seconds_per_item == pytest.approx(0.9 * 1.0 + 0.1 * 0.5)
    assert [(entry.result(0).waited, entry.result(0).ran) for entry in (first, *pair)] == [(0.0, 1.0), (1.0, 1.0), (1.0, 1.0)]
