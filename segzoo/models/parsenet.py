"""ParseNet: a global feature beside every local one, both of unit length.

Liu et al., ParseNet: Looking Wider to See Better, arXiv:1506.04579. The backbone is DeepLab-LargeFOV's without its average pool.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, init_normal_
from segzoo.layers.norm import L2Norm
from segzoo.models._base import SegModel
from segzoo.models._fc6_fc7 import Fc6Fc7
from segzoo.registry import MODELS, Range
from segzoo.types import Logits


@MODELS.register
def parsenet(
    backbone: Backbone,
    num_classes: int,
    *,
    fusion: Literal["late", "early"] = "late",
    output_stride: Literal[8, 16, 32] = 8,
    first_block_dilation: Literal["full", "half"] = "full",
    kernel: Annotated[int, Range(1, 7)] = 3,
    dilation: Annotated[int, Range(1, None)] = 12,
    fc_channels: Annotated[int, Range(0, None)] = 1024,
    scale: Annotated[float, Range(0, None, above=True)] = 10.0,
    dropout: Annotated[float, Range(0, 0.95)] = 0.5,
    global_dropout: Annotated[float, Range(0, 0.95)] = 0.3,
) -> ParseNet:
    """ParseNet on any backbone. On VGG-16 without batch norm it needs pre-trained weights.

    Args:
        backbone: a fresh backbone; its strides become dilation here.
        num_classes: classes to score, K.
        fusion: ``late`` adds the scores of the local and the global feature (the release), ``early`` scores both joined.
        output_stride: stride of the backbone's last map, and of the logits.
        first_block_dilation: dilation of the first block of a dilated ResNet stage: its own (``full``) or the one before (``half``).
        kernel: taps a side of fc6.
        dilation: distance between them in pixels of the map.
        fc_channels: width of fc6 and fc7; 0 puts the global feature right behind c5.
        scale: where the learned factor of each normalized channel starts.
        dropout: share of the values dropped after fc6 and after fc7, in training.
        global_dropout: share of the channels dropped from the normalized global feature, in training.
    """
    trunk = backbone.set_output_stride_(output_stride, first_block_dilation)
    fc = Fc6Fc7(trunk.channels["c5"], fc_channels, kernel, dilation, dropout).init_from_vgg(trunk) if fc_channels else None
    return ParseNet(trunk, num_classes, fc, early=fusion == "early", scale=scale, dropout=global_dropout)


class ParseNet(SegModel):
    """The network that ``parsenet`` builds.

    The global feature is the mean of the whole map, whatever its size, taken before it is normalized. Deviation: the release grows
    its logits by a fixed bilinear deconvolution, which does what the engine does to them.

    Shapes:
        (N, 3, H, W) -> main (N, K, H/8, W/8); no auxiliary logits
    """

    def __init__(self, backbone: Backbone, num_classes: int, fc: Fc6Fc7 | None, *, early: bool, scale: float, dropout: float):
        super().__init__(backbone, num_classes, align_corners=False)
        wide = backbone.channels["c5"] if fc is None else fc.channels
        self.fc = nn.Identity() if fc is None else fc
        self.local_norm, self.global_norm = L2Norm(wide, scale), L2Norm(wide, scale)
        self.dropout = nn.Dropout(dropout)
        self.score = Classifier(2 * wide if early else wide, num_classes)
        self.global_score = None if early else Classifier(wide, num_classes)
        for score in (self.score, self.global_score):
            if score is not None:
                init_normal_(score, 0.01)

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the backbone's output stride; see the class for shapes."""
        self.check_input(x)
        features = self.fc(self.backbone.forward_stages(x)["c5"])
        local = self.local_norm(features)
        context = self.dropout(self.global_norm(features.float().mean((2, 3), keepdim=True).to(features.dtype)))
        if self.global_score is None:
            return Logits(self.score(torch.cat([local, context.expand_as(local)], 1)))
        return Logits(self.score(local) + self.global_score(context))
