"""Common problems of a training are reported once, with a hint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segzoo.training.diagnostics import LOG_ROWS, MAX_STEPS_ABOVE, TrainingDiagnostics
from segzoo.training.state import Diverged
from segzoo.types import Batch


@pytest.fixture
def printed():
    return []


@pytest.fixture
def diagnostics(printed):
    return TrainingDiagnostics(printed.append, workers=2, num_classes=4)


def test_a_batch_of_ignored_pixels_is_reported_once(diagnostics, printed):
    batches = [Batch(torch.empty(0), torch.empty(0), ("a", "b"), (0, 1))]
    diagnostics.on_step(3, 1.0, 5.0, batches)
    assert printed == []
    diagnostics.on_step(4, 1.0, 0.0, batches)
    diagnostics.on_step(5, 1.0, 0.0, batches)
    [line] = printed
    assert "step 4" in line and "a, b" in line and "data.label_map" in line


def test_classes_of_weight_zero_are_not_called_ignored(diagnostics, printed):
    diagnostics.on_step(4, 1.0, 0.0, [Batch(torch.empty(0), torch.tensor([[[0, 255]]], dtype=torch.uint8), ("a",), (0,))])
    assert "step 4: all labeled pixels of a have classes of weight 0 in loss.class_weights" in printed[0]


def test_slow_data_loading_is_reported_once(diagnostics, printed):
    diagnostics.on_log(1.0, 0.9)  # includes starting the workers
    assert printed == []
    diagnostics.on_log(1.0, 0.1)
    diagnostics.on_log(1.0, 0.45)
    diagnostics.on_log(1.0, 0.5)
    [line] = printed
    assert "45%" in line and "workers=4" in line


@pytest.mark.parametrize("end, flat", [(2.0, True), (1.99, True), (1.8, False)])
def test_a_loss_that_does_not_decrease_is_reported(diagnostics, printed, end, flat):
    for loss in np.linspace(2.0, end, LOG_ROWS):
        diagnostics.on_log(float(loss), 0.0)
    assert len(printed) == int(flat)
    assert not flat or "optim.lr" in printed[0]


def test_a_resumed_run_need_not_decrease_its_loss(printed):
    resumed = TrainingDiagnostics(printed.append, workers=2, num_classes=4, start=100)
    for _ in range(LOG_ROWS):
        resumed.on_log(0.1, 0.0)
    assert printed == []


def test_rows_whose_steps_were_all_skipped_are_left_out(diagnostics, printed):
    for loss in (*np.linspace(2.0, 0.1, LOG_ROWS - 1), float("nan"), 0.1):
        diagnostics.on_log(float(loss), 0.0)
    assert printed == []


def test_classes_missed_by_two_consecutive_evaluations_are_reported(diagnostics, printed):
    names = ("sky", "road", "tree", "absent")
    tree_missed = np.array([[5, 1, 0, 0], [1, 5, 0, 0], [2, 2, 0, 0], [0, 0, 0, 0]])
    all_predicted = tree_missed + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    diagnostics.on_evaluation(1, 1.0, tree_missed, names)
    diagnostics.on_evaluation(1, 1.0, all_predicted, names)
    diagnostics.on_evaluation(1, 1.0, tree_missed, names)
    assert printed == []
    diagnostics.on_evaluation(1, 1.0, tree_missed, names)
    diagnostics.on_evaluation(1, 1.0, tree_missed, names)
    [line] = printed
    assert "tree" in line and "absent" not in line and "sky" not in line and "loss=ohem" in line


def test_a_loss_that_stays_high_has_diverged_and_a_spike_has_not(diagnostics):
    for step in range(1, MAX_STEPS_ABOVE):
        diagnostics.on_step(step, 1e5, 5.0, [])
    diagnostics.on_step(MAX_STEPS_ABOVE, 1e2, 5.0, [])
    for step in range(1, MAX_STEPS_ABOVE):
        diagnostics.on_step(step, 1e5, 5.0, [])
    diagnostics.on_step(MAX_STEPS_ABOVE, None, 5.0, [])  # a skipped step
    with pytest.raises(Diverged, match=r"1386 for 20 steps and is 1e\+05 at step 40, .*lower optim.lr"):
        diagnostics.on_step(40, 1e5, 5.0, [])


@pytest.mark.parametrize("loss, diverged", [(1e5, False), (1e7, True), (float("inf"), True), (float("nan"), True), (None, False)])
def test_a_validation_loss_out_of_range_has_diverged(diagnostics, loss, diverged):
    confusion = np.eye(4, dtype=int)
    if diverged:
        with pytest.raises(Diverged, match=r"validation loss is .* at step 8"):
            diagnostics.on_evaluation(8, loss, confusion, ("a", "b", "c", "d"))
    else:
        diagnostics.on_evaluation(8, loss, confusion, ("a", "b", "c", "d"))


@pytest.mark.parametrize("value, diverged", [(1e5, False), (-1e7, True), (float("nan"), True)])
def test_a_weight_out_of_range_is_never_saved(diagnostics, value, diverged):
    last = torch.nn.Conv2d(2, 2, 1)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), last)
    with torch.no_grad():
        last.weight[0, 0] = value
    if diverged:
        with pytest.raises(Diverged, match=r"1.weight holds a weight of (1e\+07|nan) at step 3"):
            diagnostics.on_checkpoint(3, model)
    else:
        diagnostics.on_checkpoint(3, model)
