"""Micro-batching of items that arrive at about the same time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Value = TypeVar("Value")


class Timed(NamedTuple, Generic[Value]):
    """Result of a batch for one item.

    Attributes:
        value: the result.
        waited: seconds from its arrival to the start of its batch.
        ran: seconds that the batch took.
        batch: number of items in the batch.
    """

    value: Value
    waited: float
    ran: float
    batch: int


@dataclass(eq=False)
class Entry(Generic[Key, Item, Value]):
    """An item that waits for its batch."""

    key: Key
    item: Item
    future: Future[Timed[Value]]
    arrived: float


class BatchQueue(Generic[Key, Item, Value]):
    """Queue that processes items of one key together, in its own thread.

    The oldest item goes first. It waits for others of its key until its batch is full or ``wait`` seconds have passed since it arrived. While
    a batch runs, the next ones gather, so under load no item waits without need. An item whose future is canceled is dropped, unless its batch
    has begun.

    Args:
        process: called with a key and its items, returns one result for each.
        max_batch: largest number of items in a batch, by key.
        wait: seconds.
    """

    def __init__(
        self,
        process: Callable[[Key, list[Item]], Sequence[Value]],
        max_batch: Callable[[Key], int],
        wait: float,
    ):
        self.process, self.max_batch, self.wait = process, max_batch, wait
        self.seconds_per_item = 0.0  # moving average
        self._waiting: deque[Entry[Key, Item, Value]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Number of items that wait."""
        return len(self._waiting)

    def submit(self, key: Key, item: Item) -> Future[Timed[Value]]:
        """Queue an item."""
        entry: Entry[Key, Item, Value] = Entry(key, item, Future(), time.monotonic())
        with self._changed:
            if self._closed:
                raise RuntimeError("the queue is closed")
            self._waiting.append(entry)
            self._changed.notify()
        return entry.future

    def close(self) -> None:
        """Process what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            entries = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            if entries:
                self._process(entries)

    def _next_batch(self) -> list[Entry[Key, Item, Value]]:
        """Wait for a batch and take it out, empty at the end."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                oldest = self._waiting[0]
                batch = [entry for entry in self._waiting if entry.key == oldest.key][: max(1, self.max_batch(oldest.key))]
                remaining = oldest.arrived + self.wait - time.monotonic()
                if remaining <= 0 or self._closed or len(batch) >= self.max_batch(oldest.key):
                    taken = set(map(id, batch))
                    self._waiting = deque(entry for entry in self._waiting if id(entry) not in taken)
                    return batch
                self._changed.wait(remaining)

    def _process(self, entries: list[Entry[Key, Item, Value]]) -> None:
        """Process a batch.

        If it fails, its items run one by one, so that none fails because of another.
        """
        start = time.monotonic()
        try:
            values = self.process(entries[0].key, [entry.item for entry in entries])
        except Exception as error:  # whatever a network raises is the error of its request, and the next batch follows
            if len(entries) == 1:
                entries[0].future.set_exception(error)
            else:
                for entry in entries:
                    self._process([entry])
            return
        ran = time.monotonic() - start
        latest = ran / len(entries)
        self.seconds_per_item = latest if not self.seconds_per_item else 0.9 * self.seconds_per_item + 0.1 * latest
        for entry, value in zip(entries, values, strict=True):
            entry.future.set_result(Timed(value, start - entry.arrived, ran, len(entries)))
