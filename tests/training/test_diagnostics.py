"""Common problems of a training are reported once, with a hint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segzoo.training.diagnostics import LOG_ROWS, TrainingDiagnostics
from segzoo.types import Batch


@pytest.fixture
def printed():
    return []


@pytest.fixture
def diagnostics(printed):
    return TrainingDiagnostics(printed.append, workers=2)


def test_a_batch_of_ignored_pixels_is_reported_once(diagnostics, printed):
    batches = [Batch(torch.empty(0), torch.empty(0), ("a", "b"), (0, 1))]
    diagnostics.on_step(3, 5.0, batches)
    assert printed == []
    diagnostics.on_step(4, 0.0, batches)
    diagnostics.on_step(5, 0.0, batches)
    [line] = printed
    assert "step 4" in line and "a, b" in line and "data.label_map" in line


def test_slow_data_loading_is_reported_once(diagnostics, printed):
    diagnostics.on_log(1.0, 0.9)  # includes starting the workers
    assert printed == []
    diagnostics.on_log(1.0, 0.1)
    diagnostics.on_log(1.0, 0.45)
    diagnostics.on_log(1.0, 0.5)
    [line] = printed
    assert "45%" in line and "workers=4" in line


@pytest.mark.parametrize("end, flat", [(2.0, True), (1.99, True), (1.8, False), (float("nan"), True)])
def test_a_loss_that_does_not_decrease_is_reported(diagnostics, printed, end, flat):
    for loss in np.linspace(2.0, end, LOG_ROWS):
        diagnostics.on_log(float(loss), 0.0)
    assert len(printed) == int(flat)
    assert not flat or "optim.lr" in printed[0]


def test_classes_missed_by_two_consecutive_evaluations_are_reported(diagnostics, printed):
    names = ("sky", "road", "tree", "absent")
    tree_missed = np.array([[5, 1, 0, 0], [1, 5, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    all_predicted = tree_missed + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    diagnostics.on_evaluation(tree_missed, names)
    diagnostics.on_evaluation(all_predicted, names)
    diagnostics.on_evaluation(tree_missed, names)
    assert printed == []
    diagnostics.on_evaluation(tree_missed, names)
    diagnostics.on_evaluation(tree_missed, names)
    [line] = printed
    assert "tree" in line and "absent" not in line and "sky" not in line and "loss=ohem" in line
