"""Stages of work that overlap, each in threads of its own.

Decoding, networks and encoding release Python's global lock, so threads are enough.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from segzoo.resources import cpu_cores

T = TypeVar("T")
R = TypeVar("R")
MAX_THREADS = 8  # per stage; more would hold more images in memory than they speed up


def helper_threads() -> int:
    """Number of threads that read, and of those that write."""
    return max(1, min(cpu_cores() // 2, MAX_THREADS))


class Stage:
    """Threads for one kind of work, and their busy time.

    Args:
        name: the kind of work, such as ``reading``.
        threads: number of threads.
    """

    def __init__(self, name: str, threads: int = 1):
        self.name, self.threads = name, threads
        self.seconds = 0.0  # of all threads together
        self._lock = Lock()
        self._failure: BaseException | None = None

    @property
    def load(self) -> float:
        """Busy seconds per thread. The stage with most of them limits all."""
        return self.seconds / self.threads

    def map(self, function: Callable[[T], R], items: Iterable[T], alone: Callable[[T], bool] = lambda item: False) -> Generator[R]:
        """Call a function on each item in threads, keeping the order.

        One item per thread is in progress and one more is waiting, which limits the memory. After an exception no further call starts.

        Args:
            function: the work.
            items: what it is done on.
            alone: true for an item that is in progress while no other is. It counts as work of all threads.
        """
        pending: deque[Future[R]] = deque()
        pool = ThreadPoolExecutor(self.threads, self.name)
        try:
            for item in items:
                if alone(item):
                    while pending:
                        yield pending.popleft().result()
                    yield pool.submit(self._call, function, item, self.threads).result()
                    continue
                pending.append(pool.submit(self._call, function, item))
                if len(pending) > self.threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            if isinstance(items, Generator):
                items.close()  # ends the threads of the stage before

    def _call(self, function: Callable[[T], R], item: T, busy: int = 1) -> R:
        if self._failure is not None:
            raise self._failure
        start = time.perf_counter()
        try:
            return function(item)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            with self._lock:
                self.seconds += busy * (time.perf_counter() - start)


def slowest(stages: Iterable[Stage]) -> Stage:
    """Return the stage that limits the others."""
    return max(stages, key=lambda stage: stage.load)


def shares(stages: Iterable[Stage]) -> dict[str, float]:
    """Share of each stage in the busy time of all threads."""
    seconds = {stage.name: stage.seconds for stage in stages}
    total = sum(seconds.values()) or 1.0
    return {name: round(value / total, 4) for name, value in seconds.items()}
