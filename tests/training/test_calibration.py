"""What pruners see of a network: the evaluator's loss, autograd's gradients, always the same images, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import torch
from toy_training import ToyData, make_components

from segzoo.device import Precision
from segzoo.evaluation.evaluator import evaluate
from segzoo.training.calibration import CalibrationSet


def evidence(count=16, augment=None):
    components = make_components(train_set=ToyData(10))
    components.augment = augment
    return CalibrationSet(components.model, components, Precision("fp32", torch.device("cpu")), count)


def test_the_loss_is_that_of_the_evaluator():
    seen = evidence()
    components = seen.components
    wanted = evaluate(components.model, components.train_set, components.info, components.loss, device="cpu", workers=0).scores.loss
    assert wanted is not None and abs(seen.loss() - wanted) < 1e-5 and len(seen.indices) == 10


def test_gradients_are_autograds_and_leave_nothing():
    seen = evidence(count=3)
    model: Any = seen.model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = list(seen.gradients())
    assert len(found) == 3 and model.training
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert "head.weight" in found[0] and not any(name.startswith("aux") for name in found[0])
    epsilon, weight = 1e-2, model.head.weight
    slope = found[0]["head.weight"][0, 0, 1, 1].item()
    losses = []
    for step in (epsilon, -epsilon):
        with torch.no_grad():
            weight[0, 0, 1, 1] += step
        one = evidence(count=1)
        one.model.load_state_dict(model.state_dict())
        losses.append(one.loss())
        with torch.no_grad():
            weight[0, 0, 1, 1] -= step
    assert abs((losses[0] - losses[1]) / (2 * epsilon) - slope) < 1e-3


def test_frozen_layers_have_gradients_and_stay_frozen():
    seen = evidence(count=1)
    weight = seen.model.get_parameter("backbone.0.weight").requires_grad_(False)
    assert "backbone.0.weight" in next(iter(list(seen.gradients()))) and not weight.requires_grad


def test_augmented_pictures_stay_the_same():
    seeds = []

    def noisy(sample, seed):
        seeds.append(seed)
        return sample

    seen = evidence(count=5, augment=noisy)
    assert seen.loss() == seen.loss() and seeds == seen.indices == [0, 2, 4, 6, 8]
