"""Straightforward torch versions of two VGG models, as peers for timing.

No library ships LargeFOV or ParseNet; these have the same layers as the papers, dropout included, and no optimization.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def vgg16_stride8() -> nn.Sequential:
    """VGG16 at output stride 8, with 3x3 pooling.

    The last two pools have stride 1, and the convolutions of the last stage have dilation 2.
    """
    layers: list[nn.Module] = []
    in_channels = 3
    for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for _ in range(depth):
            dilation = 2 if stage == 5 else 1
            layers += [nn.Conv2d(in_channels, width, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
            in_channels = width
        layers.append(nn.MaxPool2d(3, 2 if stage < 4 else 1, 1))
    return nn.Sequential(*layers)


class PlainLargeFOV(nn.Module):
    """DeepLab-LargeFOV of 2015."""

    def __init__(self, classes: int):
        super().__init__()
        self.net = nn.Sequential(
            vgg16_stride8(),
            nn.AvgPool2d(3, 1, 1),
            nn.Conv2d(512, 1024, 3, padding=12, dilation=12),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(1024, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainParseNet(nn.Module):
    """ParseNet of 2015 with late fusion."""

    def __init__(self, classes: int):
        super().__init__()
        self.backbone = vgg16_stride8()
        self.fc6, self.fc7 = nn.Conv2d(512, 1024, 3, padding=12, dilation=12), nn.Conv2d(1024, 1024, 1)
        self.dropout = nn.Dropout()
        self.scale, self.global_scale = (nn.Parameter(torch.full((1, 1024, 1, 1), 10.0)) for _ in range(2))
        self.score, self.global_score = nn.Conv2d(1024, classes, 1), nn.Conv2d(1024, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.dropout(torch.relu(self.fc6(self.backbone(x))))
        features = self.dropout(torch.relu(self.fc7(features)))
        context = features.mean((2, 3), keepdim=True)
        local = self.scale * features / (features.pow(2).sum(1, keepdim=True) + 1e-10).sqrt()
        context = self.global_scale * context / (context.pow(2).sum(1, keepdim=True) + 1e-10).sqrt()
        return self.score(local) + self.global_score(context)
