"""Backbones of the model and backbone pairs, and a batch that they can fit."""

from __future__ import annotations

import torch

CLASSES = ("background", "left", "corner", "dot")
BACKBONES = {
    "vgg16": {"name": "vgg16"},
    "vgg16_bn": {"name": "vgg16", "batch_norm": True},
    "resnet50": {"name": "resnet50"},
    "resnet101": {"name": "resnet101"},
    "narrow": {"name": "resnet50", "width": 0.25},
}


def fixed_batch():
    """Four noisy 64x64 images, their labels and the entropy of the labels.

    The images show a stripe, a square and a dot of other colors, and some pixels are ignored.
    """
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(4, 64, 64, dtype=torch.uint8)
    label[:, :, :20], label[:, 34:, 34:], label[:, 8:20, 40:52], label[:, 60:, :] = 1, 2, 3, 255
    colors = torch.tensor([[0.0, 0, 0], [1.5, 0, -1], [-1, 1.5, 0], [0, -1, 1.5]])
    x = colors[torch.where(label == 255, 0, label).long()].permute(0, 3, 1, 2)
    fraction = torch.bincount(label.flatten(), minlength=256)[:4] / (label != 255).sum()
    return x + 0.3 * torch.randn(x.shape, generator=generator), label, -(fraction * fraction.log()).sum().item()
