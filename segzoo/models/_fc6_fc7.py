"""VGG-16's fc6 and fc7 as convolutions, at full size or subsampled.

FCN, ParseNet and DeepLab-LargeFOV share them.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import nn

from segzoo.backbones._base import Backbone
from segzoo.backbones.vgg import VGG
from segzoo.layers.conv import Conv2d
from segzoo.layers.dropout import Dropout
from segzoo.registry import ConfigError
from segzoo.weights import log_rank0


class Fc6Fc7(nn.Sequential):
    """The convolutions fc6 and fc7, each with bias, ReLU and dropout.

    fc6 has a ``kernel`` x ``kernel`` kernel, fc7 a 1x1 kernel.

    Args:
        cin: input channels.
        channels: width of both layers.
        kernel: kernel size of fc6.
        dilation: dilation of fc6, in pixels.
        dropout: dropout probability after each layer.
        padded: whether the feature map keeps its size. Otherwise it loses ``dilation * (kernel - 1)`` pixels in height and width.

    Attributes:
        channels: width of both layers.
        uses_backbone_lr: whether the layers learn at the backbone's rate. True on VGG-16 only, whose weights were trained with
            them.

    Shapes:
        (N, cin, H, W) -> (N, channels, H, W) if padded

    Raises:
        ConfigError: ``padded``, and kernel and dilation leave an odd number of pixels to pad.
    """

    def __init__(self, cin: int, channels: int, kernel: int, dilation: int, dropout: float, *, padded: bool = True):
        reach = dilation * (kernel - 1)
        if padded and reach % 2:
            raise ConfigError(
                f"model.kernel={kernel} with model.dilation={dilation} cannot be padded evenly: set an even dilation or an odd kernel"
            )
        fc6 = nn.Conv2d(cin, channels, kernel, padding=reach // 2 if padded else 0, dilation=dilation)
        fc7 = Conv2d(channels, channels, 1)
        for conv in (fc6, fc7):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        super().__init__(fc6, nn.ReLU(inplace=True), Dropout(dropout), fc7, nn.ReLU(inplace=True), Dropout(dropout))
        self.channels = channels
        self.uses_backbone_lr = False

    @torch.no_grad()
    def init_from_vgg(self, backbone: Backbone) -> Self:
        """Initialize from the classifier in the backbone's weights, if there is one.

        A smaller kernel takes taps spread evenly over those of the file, the outermost included, and a 1x1 kernel the one in the middle.
        Fewer channels are every second, fourth, ... of the file's (Chen et al., ICLR 2015, arXiv:1412.7062, sec. 3.2, where the subsampled
        network is then fine-tuned). The file has 4096 channels and 7x7 taps if it is the one of the classification network, or those of a
        subsampled network. The outcome is logged.
        """
        self.uses_backbone_lr = isinstance(backbone, VGG)
        source = backbone.classifier
        fc6, fc7 = (layer for layer in self if isinstance(layer, nn.Conv2d))
        cout, cin, kernel, _ = fc6.weight.shape
        if not source:
            return self
        width = len(source["fc6.weight"])
        side = math.isqrt(source["fc6.weight"].numel() // (width * cin))
        fits = source["fc6.weight"].numel() == width * cin * side**2 and source["fc7.weight"].numel() == width**2
        if not fits or kernel > side or width % cout:
            shapes = " and ".join(str(tuple(source[f"{name}.weight"].shape)) for name in ("fc6", "fc7"))
            log_rank0(
                f"fc6 and fc7 are newly initialized: {cout} channels with {kernel}x{kernel} taps cannot be sampled from the weights "
                f"{shapes} of the file"
            )
            return self
        taps = torch.linspace(0, side - 1, kernel).round().long() if kernel > 1 else torch.tensor([side // 2])
        sampled = slice(None, None, width // cout)
        fc6.weight.copy_(source["fc6.weight"].reshape(width, cin, side, side)[sampled][:, :, taps][..., taps])
        fc6.get_parameter("bias").copy_(source["fc6.bias"][sampled])
        fc7.weight.copy_(source["fc7.weight"].reshape(width, width, 1, 1)[sampled, sampled])
        fc7.get_parameter("bias").copy_(source["fc7.bias"][sampled])
        log_rank0(
            f"fc6 and fc7 are loaded from the file's classifier: {kernel}x{kernel} of {side}x{side} taps, {cout} of {width} channels"
        )
        return self
