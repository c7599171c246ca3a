"""Norms that PyTorch lacks: batch norm for maps of one pixel, and unit length over channels."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SingleValueBatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains where pooling leaves one value per channel (batch 1, a map of 1x1).

    The variance of one value is zero, so ordinary batch norm rejects it. This layer then normalizes with its running
    statistics, leaves them as they are and warns once. With two values or more it is batch norm, and its state dict
    always is that of ``nn.BatchNorm2d``.

    Args:
        channels: channels of the map.
        role: what the layer does in the model, for the warning.

    Shapes:
        (N, C, H, W) -> (N, C, H, W)
    """

    def __init__(self, channels: int, role: str = "a pooled map"):
        super().__init__(channels)
        self.role = role
        self._warned = False

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.shape[0] * input.shape[2] * input.shape[3] > 1:
            return super().forward(input)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"The batch norm of {self.role} got one value per channel in training (batch 1, map 1x1). It uses its running "
                "statistics and does not update them, for this and every such batch; train with at least 2 images a batch to "
                "learn them.",
                stacklevel=2,
            )
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class L2Norm(nn.Module):
    """Scales the channels of every pixel to unit length, then each channel by a learned factor.

    Liu et al., ParseNet, arXiv:1506.04579, sec. 3.3: ``y_c = scale_c x_c / sqrt(sum_k x_k^2 + 1e-10)``, so a pixel of zeros stays
    zero. Computed in fp32.

    Args:
        channels: channels of the map.
        scale: where every factor starts.

    Shapes:
        (N, C, H, W) -> (N, C, H, W) of the type of the input
    """

    def __init__(self, channels: int, scale: float = 10.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        # the paper's length, written with 1 for its 1e-10, which the ONNX exporter takes for nothing: zeros would become NaN
        length = (1e10 * wide.square().sum(1, keepdim=True) + 1).sqrt() * 1e-5
        return (self.scale.float().view(1, -1, 1, 1) * wide / length).to(x.dtype)
