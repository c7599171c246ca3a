"""Loss and gradients on calibration images.

They equal those of the evaluator and of autograd, and the model stays unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from toy_training import ToyData, make_components

from segzoo.device import Precision
from segzoo.evaluation.evaluator import evaluate
from segzoo.training.calibration import CalibrationSet


def calibration_set(count=16, augment=None):
    components = make_components(train_set=ToyData(10))
    components.augment = augment
    return CalibrationSet(components.model, components, Precision("fp32", torch.device("cpu")), count)


def test_the_loss_equals_that_of_the_evaluator():
    calibration = calibration_set()
    components = calibration.components
    expected = evaluate(
        components.model, components.train_set, components.info, components.loss, device="cpu", workers=0
    ).scores.loss
    assert expected is not None and abs(calibration.loss() - expected) < 1e-5 and len(calibration.indices) == 10


def test_gradients_equal_those_of_autograd_and_change_nothing():
    calibration = calibration_set(count=3)
    model: Any = calibration.model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = list(calibration.gradients())
    assert len(gradients) == 3 and model.training
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert "head.weight" in gradients[0] and not any(name.startswith("aux") for name in gradients[0])
    epsilon, weight = 1e-2, model.head.weight
    slope = gradients[0]["head.weight"][0, 0, 1, 1].item()
    losses = []
    for step in (epsilon, -epsilon):
        with torch.no_grad():
            weight[0, 0, 1, 1] += step
        shifted = calibration_set(count=1)
        shifted.model.load_state_dict(model.state_dict())
        losses.append(shifted.loss())
        with torch.no_grad():
            weight[0, 0, 1, 1] -= step
    assert abs((losses[0] - losses[1]) / (2 * epsilon) - slope) < 1e-3


def test_frozen_layers_have_gradients_and_stay_frozen():
    calibration = calibration_set(count=1)
    weight = calibration.model.get_parameter("backbone.0.weight").requires_grad_(False)
    assert "backbone.0.weight" in next(iter(list(calibration.gradients()))) and not weight.requires_grad


def test_augmented_images_stay_the_same():
    seeds = []

    def augment(sample, seed):
        seeds.append(seed)
        return sample

    calibration = calibration_set(count=5, augment=augment)
    assert calibration.loss() == calibration.loss() and seeds == calibration.indices == [0, 2, 4, 6, 8]
