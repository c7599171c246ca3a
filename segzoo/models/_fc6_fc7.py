"""VGG-16's fc6 and fc7 as convolutions, whole or thinned out: the head that FCN, ParseNet and DeepLab-LargeFOV share."""

from __future__ import annotations

from typing import Self

import torch
from torch import nn

from segzoo.backbones._base import Backbone
from segzoo.backbones.vgg import VGG
from segzoo.registry import ConfigError
from segzoo.weights import log_rank0

SIDE, WIDE = 7, 4096  # taps a side and channels of the classifier that VGG-16 was trained with


class Fc6Fc7(nn.Sequential):
    """fc6, a convolution of ``kernel`` x ``kernel`` taps, and fc7, one of 1x1, each with bias, ReLU and dropout.

    Args:
        cin: channels of the map before.
        channels: width of both layers.
        kernel: taps a side of fc6.
        dilation: distance between its taps in pixels.
        dropout: share of the values dropped after each layer, in training.
        padded: whether the map keeps its size; else it loses ``dilation * (kernel - 1)`` pixels a side.

    Attributes:
        channels: width of both layers.
        copies_vgg: whether the backbone's weights were trained with these layers, so that they learn at its rate: on VGG-16 only.

    Shapes:
        (N, cin, H, W) -> (N, channels, H, W) if padded

    Raises:
        ConfigError: padded, and kernel and dilation leave an odd number of pixels to pad.
    """

    def __init__(self, cin: int, channels: int, kernel: int, dilation: int, dropout: float, *, padded: bool = True):
        reach = dilation * (kernel - 1)
        if padded and reach % 2:
            raise ConfigError(
                f"model.kernel={kernel} with model.dilation={dilation} cannot be padded evenly; take an even dilation or an odd kernel"
            )
        fc6 = nn.Conv2d(cin, channels, kernel, padding=reach // 2 if padded else 0, dilation=dilation)
        fc7 = nn.Conv2d(channels, channels, 1)
        for conv in (fc6, fc7):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        super().__init__(fc6, nn.ReLU(inplace=True), nn.Dropout(dropout), fc7, nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.channels = channels
        self.copies_vgg = False

    @torch.no_grad()
    def init_from_vgg(self, backbone: Backbone) -> Self:
        """Takes the classifier that came with the backbone's weights and says so; leaves the values where there is none.

        Fewer taps are those evenly spread over the seven, the outermost included; fewer channels are every second, fourth, ...
        of the 4096 (Chen et al., ICLR 2015, arXiv:1412.7062, sec. 3.1; the network that was sub-sampled is fine-tuned afterwards).
        """
        self.copies_vgg = isinstance(backbone, VGG)
        whole = backbone.classifier
        fc6, fc7 = (layer for layer in self if isinstance(layer, nn.Conv2d))
        cout, cin, kernel, _ = fc6.weight.shape
        if not whole:
            return self
        if whole["fc6.weight"].shape != (WIDE, cin * SIDE**2) or kernel > SIDE or WIDE % cout:
            log_rank0(
                f"fc6 and fc7 start anew: {cout} channels of {kernel}x{kernel} taps cannot be had from the file's {WIDE} of {SIDE}x{SIDE}"
            )
            return self
        taps = torch.linspace(0, SIDE - 1, kernel).round().long()
        every = slice(None, None, WIDE // cout)
        fc6.weight.copy_(whole["fc6.weight"].view(WIDE, cin, SIDE, SIDE)[every][:, :, taps][..., taps])
        fc6.get_parameter("bias").copy_(whole["fc6.bias"][every])
        fc7.weight.copy_(whole["fc7.weight"][every, every, None, None])
        fc7.get_parameter("bias").copy_(whole["fc7.bias"][every])
        log_rank0(f"fc6 and fc7 from the file's classifier: {kernel}x{kernel} of {SIDE}x{SIDE} taps, {cout} of {WIDE} channels")
        return self
