"""The two VGG papers that no library has, written plainly in torch, as peers for timing: same layers, nothing clever."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def trunk() -> nn.Sequential:
    """VGG16 at stride 8: 3x3 pools of stride 2, then of stride 1; the last stage has dilation 2."""
    layers: list[nn.Module] = []
    cin = 3
    for number, (width, depth) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for _ in range(depth):
            reach = 2 if number == 5 else 1
            layers += [nn.Conv2d(cin, width, 3, padding=reach, dilation=reach), nn.ReLU(inplace=True)]
            cin = width
        layers.append(nn.MaxPool2d(3, 2 if number < 4 else 1, 1))
    return nn.Sequential(*layers)


class PlainLargeFOV(nn.Module):
    """DeepLab-LargeFOV of 2015."""

    def __init__(self, classes: int):
        super().__init__()
        self.net = nn.Sequential(
            trunk(),
            nn.AvgPool2d(3, 1, 1),
            nn.Conv2d(512, 1024, 3, padding=12, dilation=12),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainParseNet(nn.Module):
    """ParseNet of 2015, late fusion."""

    def __init__(self, classes: int):
        super().__init__()
        self.trunk = trunk()
        self.fc6, self.fc7 = nn.Conv2d(512, 1024, 3, padding=12, dilation=12), nn.Conv2d(1024, 1024, 1)
        self.scale, self.global_scale = (nn.Parameter(torch.full((1, 1024, 1, 1), 10.0)) for _ in range(2))
        self.score, self.global_score = nn.Conv2d(1024, classes, 1), nn.Conv2d(1024, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.fc7(torch.relu(self.fc6(self.trunk(x)))))
        context = features.mean((2, 3), keepdim=True)
        local = self.scale * features / (features.pow(2).sum(1, keepdim=True) + 1e-10).sqrt()
        context = self.global_scale * context / (context.pow(2).sum(1, keepdim=True) + 1e-10).sqrt()
        return self.score(local) + self.global_score(context)
