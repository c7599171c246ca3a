"""Folded networks answer what they answered before, and no norm is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from varied_networks import vary_norms_

from segzoo.api import create_model
from segzoo.layers.fuse_conv_bn import fuse_conv_bn_
from segzoo.registry import MODELS
from segzoo.workflows.benchmark.workload import init_zero_classifiers_


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize(
    "trunk", [{"name": "resnet50", "width": 0.125, "stem": "deep"}, {"name": "vgg16", "batch_norm": True}], ids=["resnet", "vgg"]
)
@pytest.mark.parametrize("way", ["fold", "lean"])
@torch.no_grad()
def test_folding_changes_no_answer_and_leaves_no_norm(name, trunk, way):
    torch.manual_seed(0)
    small: dict[str, Any] = (
        {"fc_channels": 16} if name in ("parsenet", "deeplab_largefov") or (name == "fcn" and trunk["name"] == "vgg16") else {}
    )
    model: Any = create_model(name, backbone=trunk, num_classes=4, **small)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    vary_norms_(model)
    init_zero_classifiers_(model)
    x = torch.randn(1, 3, 64, 80)
    wanted = model.eval()(x).main
    assert (fuse_conv_bn_(model) if way == "fold" else model.fuse_for_inference_()) == len(norms)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    torch.testing.assert_close(model(x).main, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())


def test_a_training_model_is_refused():
    with pytest.raises(ValueError, match="wanted evaluation"):
        fuse_conv_bn_(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


@pytest.mark.parametrize("align", [True, False])
def test_icnet_trains_on_the_scores_it_is_evaluated_by(align):
    """Training scores before the last growing: the same numbers and the same gradients, for less work."""
    torch.manual_seed(0)
    trunk = {"name": "resnet50", "width": 0.125, "stem": "deep"}
    model: Any = create_model("icnet", backbone=trunk, num_classes=4, align_corners=align).eval()
    x, results = torch.randn(1, 3, 65, 96), []
    for order in (False, True):
        model.training = order  # the net alone: its norms stay in evaluation
        model.zero_grad()
        main = model(x).main
        main.square().sum().backward()
        reached = [model.score.weight, model.score.bias, model.cff12.low.conv.weight]
        results.append([main.detach()] + [parameter.grad.clone() for parameter in reached])
    for released, training in zip(*results, strict=True):
        torch.testing.assert_close(training, released, rtol=1e-4, atol=1e-5 * released.abs().max().item())  # scores are fp32
