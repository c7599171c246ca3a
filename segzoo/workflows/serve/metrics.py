"""Counters of the service, in the text format of Prometheus.

The format is so small that the client library, with its registry for the whole process, would take more code than this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import accumulate

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """All metrics of a service. Any thread may change them.

    Args:
        in_progress: returns the number of images that are uploaded, queued or labeled now.
        waiting: returns the number of those in the queue.
    """

    def __init__(self, in_progress: Callable[[], int], waiting: Callable[[], int]):
        self._lock = threading.Lock()
        self.requests = Counter("segzoo_requests_total", "HTTP requests, by path and status.", ("path", "status"))
        self.images = Counter("segzoo_images_total", "Images labeled, by model.", ("model",))
        self.seconds = Histogram("segzoo_request_seconds", "Seconds from a request for labels to its answer.", SECONDS)
        self.network_seconds = Histogram("segzoo_batch_seconds", "Seconds that the network needs for a batch.", SECONDS)
        self.batch = Histogram("segzoo_batch_images", "Images per batch.", IMAGES)
        self.gauges = (
            ("segzoo_images_in_progress", "Images that are uploaded, queued or labeled now.", in_progress),
            ("segzoo_images_waiting", "Images in the queue of the network.", waiting),
        )

    def count_request(self, path: str, status: int, seconds: float | None) -> None:
        """Count a request and, for labels, its seconds."""
        with self._lock:
            self.requests.add((path, str(status)))
            if seconds is not None:
                self.seconds.add(seconds)

    def count_batch(self, model: str, images: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            self.images.add((model,), images)
            self.batch.add(images)
            self.network_seconds.add(seconds)

    def text(self) -> str:
        """Write all metrics in the text format 0.0.4."""
        with self._lock:
            lines = [
                line
                for metric in (self.requests, self.images, self.seconds, self.network_seconds, self.batch)
                for line in metric.lines()
            ]
        for name, help_text, value in self.gauges:
            lines += [*_head(name, help_text, "gauge"), f"{name} {value()}"]
        return "\n".join(lines) + "\n"


class Counter:
    """A number that never decreases, for each combination of labels."""

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...]):
        self.name, self.help_text, self.labels = name, help_text, labels
        self.values: dict[tuple[str, ...], int] = {}

    def add(self, labels: tuple[str, ...], amount: int = 1) -> None:
        """Increase the number of these labels."""
        self.values[labels] = self.values.get(labels, 0) + amount

    def lines(self) -> list[str]:
        """Write the counter."""
        rows = []
        for values, number in sorted(self.values.items()):
            pairs = ",".join(f'{label}="{_escape(value)}"' for label, value in zip(self.labels, values, strict=True))
            rows.append(f"{self.name}{{{pairs}}} {number}")
        return [*_head(self.name, self.help_text, "counter"), *rows]


class Histogram:
    """Numbers of values up to each bound, their sum and their count."""

    def __init__(self, name: str, help_text: str, bounds: tuple[float, ...]):
        self.name, self.help_text, self.bounds = name, help_text, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[sum(value > bound for bound in self.bounds)] += 1
        self.sum += value

    def lines(self) -> list[str]:
        """Write the histogram."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        rows = [f'{self.name}_bucket{{le="{name}"}} {count}' for name, count in zip(names, accumulate(self.counts), strict=True)]
        head = _head(self.name, self.help_text, "histogram")
        return [*head, *rows, f"{self.name}_sum {self.sum:.6f}", f"{self.name}_count {sum(self.counts)}"]


def _head(name: str, help_text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
