"""Sizes of batches and answers of the service, without a server."""

from __future__ import annotations

import base64
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segzoo.inference.prediction.inputs import BATCH_PIXELS
from segzoo.inference.prediction.result import Prediction
from segzoo.types import DatasetInfo
from segzoo.workflows.serve.answers import describe_all
from segzoo.workflows.serve.batching import Timed
from segzoo.workflows.serve.service import Kind, Limits, QueueFull, Service


@pytest.fixture
def service():
    models: Any = {"net": SimpleNamespace(info=SimpleNamespace(num_classes=10))}
    started = Service(models, Limits(max_batch=64, max_queue=8))
    yield started
    started.close()


def test_batches_with_probabilities_hold_as_many_values(service):
    size = (256, BATCH_PIXELS // 256 // 40)
    assert service._max_batch(Kind("net", size, False)) == 40 and service._max_batch(Kind("net", size, True)) == 4
    assert service._max_batch(Kind("net", (10**4, 10**4), True)) == 1
    assert service._max_batch(Kind("net", (8, 8), True)) == 64


def test_a_full_queue_says_when_its_images_are_done(service):
    service.queue.seconds_per_item = 0.9
    with service.admit_more(8):
        with pytest.raises(QueueFull) as full, service.admit_more(1):
            pass
        assert full.value.seconds == 8
    with service.admit_more(8):
        assert service.in_progress == 8


def test_ids_of_many_classes_take_two_bytes_the_lower_first():
    names = tuple("ignore" if k == 255 else f"c{k}" for k in range(300))
    info = DatasetInfo("many", names, tuple((k % 256, k // 256, 7) for k in range(300)))
    labels = np.array([[0, 254], [256, 299]], np.int32)
    prediction = Prediction(np.zeros((2, 2, 3), np.uint8), labels, info)
    packed = zlib.decompress(base64.b64decode(describe_all(Timed(prediction, 0.0, 0.1, 1))["labels"]))
    assert list(packed) == [0, 0, 254, 0, 0, 1, 43, 1]
