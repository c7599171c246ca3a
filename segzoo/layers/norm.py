"""Normalization layers that PyTorch lacks."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def set_batch_norm_momentum_(model: nn.Module, momentum: float) -> None:
    """Set the momentum of every batch norm layer, backbone and head alike.

    Args:
        model: changed in place.
        momentum: weight of a batch in the running statistics. Caffe counts the other part: its 0.95 is 0.05 here.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum


class SingleValueBatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains on one value per channel.

    Pooling to 1x1 leaves one value per channel at batch size 1. Its variance is zero, so ordinary batch norm rejects it. In that
    case this layer normalizes with its running statistics, does not update them, and warns once. With two or more values it is
    batch norm. Its state dict is always that of ``nn.BatchNorm2d``.

    Args:
        channels: channels of the feature map.
        role: what the layer does in the model, for the warning.

    Shapes:
        (N, C, H, W) -> (N, C, H, W)
    """

    def __init__(self, channels: int, role: str = "a pooled feature map"):
        super().__init__(channels)
        self.role = role
        self._warned = False

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or input.shape[0] * input.shape[2] * input.shape[3] > 1:
            return super().forward(input)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"The batch norm of {self.role} received one value per channel in training (batch size 1, 1x1 feature map). It uses "
                "its running statistics without updating them, for this and every such batch. Train with at least 2 images per "
                "batch to learn them.",
                stacklevel=2,
            )
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


def accept_single_values_(module: nn.Module, role: str) -> None:
    """Let the batch norm of a module train on single values.

    Args:
        module: one that pools to 1x1. Its ``nn.BatchNorm2d`` layers become ``SingleValueBatchNorm`` with the same weights and settings.
        role: what they do, for the warning.
    """
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.BatchNorm2d:
            replacement = SingleValueBatchNorm(layer.num_features, role)
            replacement.eps, replacement.momentum = layer.eps, layer.momentum
            replacement.load_state_dict(layer.state_dict())
            module.set_submodule(name, replacement)


class L2Norm(nn.Module):
    """L2 normalization across channels, followed by a learned scale per channel.

    Liu et al., ParseNet, arXiv:1506.04579, sec. 3.3: ``y_c = scale_c x_c / sqrt(sum_k x_k^2 + 1e-10)``, so a pixel of zeros stays
    zero. Computed in fp32.

    Args:
        channels: channels of the feature map.
        scale: initial value of every scale.

    Shapes:
        (N, C, H, W) -> (N, C, H, W) of the input's type
    """

    uses_backbone_lr = True  # the release gives this layer the base rate, not the tenfold rate of the classifiers,
    decays = True  # and weight decay, as Caffe does by default

    def __init__(self, channels: int, scale: float = 10.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        # the paper's norm with its 1e-10 factored out as 1: the ONNX exporter drops the tiny constant, and zeros would become NaN
        length = (1e10 * x32.square().sum(1, keepdim=True) + 1).sqrt() * 1e-5
        return (self.scale.float().view(1, -1, 1, 1) * x32 / length).to(x.dtype)
