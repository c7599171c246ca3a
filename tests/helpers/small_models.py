"""Small models with random weights, and tools to inspect a forward pass."""

from __future__ import annotations

import torch
from torch import nn

from segzoo.registry import BACKBONES, MODELS

TINY = {"resnet50": {"stem": "deep", "width": 0.125}, "resnet101": {"width": 0.125}, "vgg16": {}, "timm": {"arch": "test_resnet"}}


def build(model, backbone="resnet50", num_classes=5, options=None, **settings):
    """A model on a tiny backbone, unless ``options`` configure another."""
    if (model == "fcn" and backbone == "vgg16") or model in ("parsenet", "deeplab_largefov"):
        settings.setdefault("fc_channels", 16)
    options = TINY.get(backbone, {}) if options is None else options
    return MODELS.build(model, BACKBONES.build(backbone, **options), num_classes, **settings)


def on_meta(model, backbone, num_classes, options, **settings):
    """A model without values, for its shapes and counts."""
    with torch.device("meta"):
        return MODELS.build(model, BACKBONES.build(backbone, **options), num_classes, **settings)


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def random_images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomized(model):
    """The model with weights and statistics that reveal an error.

    FCN's classifiers and the last scales of bottlenecks would start at zero.
    """
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
        elif isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.normal_(layer.weight, 0, 0.1)
    return model


def record_calls(model, **modules):
    """A dict of ``name -> (input, output)``, filled at each call of the model.

    Args:
        model: the model to watch.
        modules: name -> path of the module.
    """
    calls = {}

    def make_hook(name):
        def hook(module, inputs, output):
            calls[name] = (inputs[0], output)

        return hook

    for name, path in modules.items():
        model.get_submodule(path).register_forward_hook(make_hook(name))
    return calls


def assert_close_to_scale(actual, expected):
    """Tensors are equal up to 1e-5 of the largest expected value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def scalar_loss(logits):
    """A scalar to which every head contributes."""
    return torch.stack([scores.square().mean() for scores in (logits.main, *logits.aux)]).sum()
