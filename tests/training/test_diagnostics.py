"""Oddities of a training are said once, with the override to try; and a training that has none is left in peace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segzoo.training.diagnostics import LOG_ROWS, TrainingDiagnostics
from segzoo.types import Batch


@pytest.fixture
def said():
    return []


def make(said, workers=2):
    return TrainingDiagnostics(said.append, workers)


def test_a_batch_of_ignored_pixels_is_named_once(said):
    watch = make(said)
    group = [Batch(torch.empty(0), torch.empty(0), ("a", "b"), (0, 1))]
    watch.on_step(3, 5.0, group)
    assert said == []
    watch.on_step(4, 0.0, group)
    watch.on_step(5, 0.0, group)
    [line] = said
    assert "step 4" in line and "a, b" in line and "data.label_map" in line


def test_a_starving_device(said):
    watch = make(said)
    watch.on_log(1.0, 0.9)  # the start of the workers
    assert said == []
    watch.on_log(1.0, 0.1)
    watch.on_log(1.0, 0.45)
    watch.on_log(1.0, 0.5)
    [line] = said
    assert "45%" in line and "workers=4" in line


@pytest.mark.parametrize("end, flat", [(2.0, True), (1.99, True), (1.8, False), (float("nan"), True)])
def test_a_loss_that_does_not_fall(said, end, flat):
    watch = make(said)
    for loss in np.linspace(2.0, end, LOG_ROWS):
        watch.on_log(float(loss), 0.0)
    assert len(said) == int(flat)
    assert not flat or "optim.lr" in said[0]


def test_classes_never_predicted_twice_in_a_row(said):
    watch, names = make(said), ("sky", "road", "tree", "absent")
    half = np.array([[5, 1, 0, 0], [1, 5, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    whole = half + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    watch.on_evaluation(half, names)
    watch.on_evaluation(whole, names)
    watch.on_evaluation(half, names)
    assert said == []
    watch.on_evaluation(half, names)
    watch.on_evaluation(half, names)
    [line] = said
    assert "tree" in line and "absent" not in line and "sky" not in line and "loss=ohem" in line
