"""Fusion for inference keeps the outputs and leaves no batch norm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from varied_networks import vary_batch_norms_

from segzoo.api import create_model
from segzoo.layers.conv import fuse_conv_bn_
from segzoo.registry import MODELS
from segzoo.workflows.benchmark.workload import init_zero_classifiers_


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize(
    "backbone", [{"name": "resnet50", "width": 0.125, "stem": "deep"}, {"name": "vgg16", "batch_norm": True}], ids=["resnet", "vgg"]
)
@pytest.mark.parametrize("method", ["conv_bn_only", "for_inference"])
@torch.no_grad()
def test_fusion_keeps_the_output_and_leaves_no_batch_norm(name, backbone, method):
    torch.manual_seed(0)
    small: dict[str, Any] = (
        {"fc_channels": 16} if name in ("parsenet", "deeplab_largefov") or (name == "fcn" and backbone["name"] == "vgg16") else {}
    )
    model: Any = create_model(name, backbone=backbone, num_classes=4, **small)
    batch_norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    vary_batch_norms_(model)
    init_zero_classifiers_(model)
    x = torch.randn(1, 3, 64, 80)
    expected = model.eval()(x).main
    assert (fuse_conv_bn_(model) if method == "conv_bn_only" else model.fuse_for_inference_()) == len(batch_norms)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    torch.testing.assert_close(model(x).main, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_a_model_in_training_mode_is_rejected():
    with pytest.raises(ValueError, match="expected evaluation"):
        fuse_conv_bn_(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))


@pytest.mark.parametrize("align", [True, False])
def test_icnet_training_and_evaluation_give_equal_scores_and_gradients(align):
    """Training classifies before the last upsampling, which is faster."""
    torch.manual_seed(0)
    backbone = {"name": "resnet50", "width": 0.125, "stem": "deep"}
    model: Any = create_model("icnet", backbone=backbone, num_classes=4, align_corners=align).eval()
    x, results = torch.randn(1, 3, 65, 96), []
    for training in (False, True):
        model.training = training  # only the network itself: its batch norm layers stay in evaluation mode
        model.zero_grad()
        main = model(x).main
        main.square().sum().backward()
        parameters = [model.score.weight, model.score.bias, model.cff12.low.conv.weight]
        results.append([main.detach()] + [parameter.grad.clone() for parameter in parameters])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())  # scores are fp32
