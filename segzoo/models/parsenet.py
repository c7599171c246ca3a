"""ParseNet: local features and a global one, both L2-normalized.

Liu et al., ParseNet: Looking Wider to See Better, arXiv:1506.04579. The backbone is DeepLab-LargeFOV's with 2x2 pools and without its average pool.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, concatenate, init_normal_
from segzoo.layers.dropout import Dropout
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
    dilation: Annotated[int, Range(1, 1024)] = 12,
    fc_channels: Annotated[int, Range(0, 65536)] = 1024,
    scale: Annotated[float, Range(0, 1e4, above=True)] = 10.0,
    dropout: Annotated[float, Range(0, 0.95)] = 0.5,
    global_dropout: Annotated[float, Range(0, 0.95)] = 0.3,
) -> ParseNet:
    """ParseNet on any backbone.

    On VGG-16 without batch norm it needs pretrained weights.

    Args:
        backbone: a newly built backbone. Its strides are replaced by dilation here.
        num_classes: number of classes, K.
        fusion: ``late`` adds the scores of local and global features, as in the release. ``early`` classifies their concatenation.
        output_stride: stride of the backbone's last feature map and of the logits.
        first_block_dilation: dilation of the first block of a dilated ResNet stage: that of its own stage (``full``) or of the
            stage before (``half``).
        kernel: kernel size of fc6.
        dilation: dilation of fc6, in pixels of its input.
        fc_channels: width of fc6 and fc7. 0 leaves them out and computes the global feature from c5.
        scale: initial value of the learned scale of each normalized channel.
        dropout: dropout probability after fc6 and after fc7.
        global_dropout: dropout probability of the normalized global feature.
    """
    backbone.set_output_stride_(output_stride, first_block_dilation)
    fc = None
    if fc_channels:
        fc = Fc6Fc7(backbone.channels["c5"], fc_channels, kernel, dilation, dropout).init_from_vgg(backbone)
    return ParseNet(backbone, num_classes, fc, early=fusion == "early", scale=scale, dropout=global_dropout)


class ParseNet(SegModel):
    """The network that ``parsenet`` builds.

    The global feature is the mean of the whole feature map, of any size, before normalization. Deviation: the release upsamples its
    logits by a fixed bilinear transposed convolution of stride 8 and crops them to the image. Here training and inference resize them to the
    image. The labels are the same at sides that are multiples of 8. At others they are shifted, in proportion to the distance from the upper
    left corner: with h rows of logits by |8h - H| pixels at the lower border, which is at most 7, towards the top if h is H/8 rounded up
    and towards the bottom if it is rounded down (pool ``vgg``).

    Shapes:
        (N, 3, H, W) -> main (N, K, H/8, W/8); no auxiliary logits
    """

    def __init__(self, backbone: Backbone, num_classes: int, fc: Fc6Fc7 | None, *, early: bool, scale: float, dropout: float):
        super().__init__(backbone, num_classes, align_corners=False)
        channels = backbone.channels["c5"] if fc is None else fc.channels
        self.fc = nn.Identity() if fc is None else fc
        self.local_norm, self.global_norm = L2Norm(channels, scale), L2Norm(channels, scale)
        self.dropout = Dropout(dropout)
        self.score = Classifier(2 * channels if early else channels, num_classes)
        self.global_score = None if early else Classifier(channels, num_classes)
        for score in (self.score, self.global_score):
            if score is not None:
                init_normal_(score, 0.01)

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the backbone's output stride."""
        x = self.prepare_input(x)
        features = self.fc(self.backbone.forward_stages(x)["c5"])
        local = self.local_norm(features)
        context = self.dropout(self.global_norm(features.float().mean((2, 3), keepdim=True).to(features.dtype)))
        if self.global_score is None:
            return Logits(self.score(concatenate(local, [context.expand_as(local)])))
        return Logits(self.score(local) + self.global_score(context))
