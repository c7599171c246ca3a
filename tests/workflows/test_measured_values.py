"""Units and parts of what a benchmark measures, without a clock."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segzoo.export.parity import spread_images
from segzoo.workflows.benchmark import measure as measure_module
from segzoo.workflows.benchmark.timing import Times

CPU = torch.device("cpu")
IMAGE = np.zeros((4, 6, 3), np.uint8)


def measured(monkeypatch, **settings):
    """A benchmark whose calls take half a second and the first one two, and how often it made labels."""
    ticks, labeled = iter([10.0, 12.0]), []

    def to_labels(logits):
        labeled.append(1)
        return logits.argmax(1)

    monkeypatch.setattr(measure_module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(measure_module, "measure", lambda call, device, **limits: Times([0.5] * 10, 3))
    monkeypatch.setattr(measure_module, "peak_memory", lambda device: 3e6)
    monkeypatch.setattr(measure_module, "roofline", lambda device, dtype: {"tflops": 0.5, "gb_per_s": 10.0})
    infer = lambda batch: batch.permute(0, 3, 1, 2).float()  # noqa: E731
    return measure_module.benchmark(infer, to_labels, [IMAGE], [], CPU, 1.0, **settings), len(labeled)


def test_times_are_milliseconds_and_memory_is_megabytes(monkeypatch):
    row, _ = measured(monkeypatch, batch=2)
    assert row["first_call_ms"] == pytest.approx(2000) and row["peak_memory_mb"] == pytest.approx(3)
    assert (row["ms_per_batch"]["p50"], row["ms_per_image"]["p50"], row["images_per_s"]) == (500, 250, 4)


@pytest.mark.parametrize(("scope", "count"), [("net", 0), ("net+labels", 1), ("end_to_end", 1)])
def test_labels_are_made_in_the_scopes_that_name_them(monkeypatch, scope, count):
    assert measured(monkeypatch, scope=scope)[1] == count


def test_images_are_spread_over_the_data_set_and_repeated_if_there_are_fewer():
    class Numbered:
        def __init__(self, count: int):
            self.count = count

        def __len__(self):
            return self.count

        def image(self, index):
            return np.full((5, 7, 3), index, np.uint8)

    def numbers(count: int, of: int) -> list[int]:
        return [int(image[0, 0, 0]) for image in spread_images(Numbered(of), count, (3, 4))]

    assert numbers(4, of=10) == [0, 2, 5, 7] and numbers(3, of=2) == [0, 0, 1]
