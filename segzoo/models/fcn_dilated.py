"""FCN on a dilated backbone.

Since ResNets, "FCN" usually means this network. It has no paper of its own: it is FCN's idea (Long et al., CVPR 2015,
arXiv:1411.4038) on the dilated residual backbone (Yu et al., CVPR 2017, arXiv:1705.09914), in the variants of torchvision and
mmsegmentation.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, ConvBN
from segzoo.layers.dropout import Dropout
from segzoo.models._base import FCNHead, SegModel
from segzoo.registry import MODELS, Range
from segzoo.types import Logits

AUX_DROPOUT = 0.1


@MODELS.register
def fcn_dilated(
    backbone: Backbone,
    num_classes: int,
    *,
    output_stride: Literal[8, 16, 32] = 8,
    first_block_dilation: Literal["full", "half"] = "half",
    convs: Annotated[int, Range(1, 100)] = 1,
    concat_input: bool = False,
    dropout: Annotated[float, Range(0, 0.95)] = 0.1,
    aux_weight: Annotated[float, Range(0, 1000)] = 0.5,
    align_corners: bool = False,
) -> DilatedFCN:
    """FCN on a dilated backbone.

    The defaults are torchvision's ``fcn_resnet50``. mmsegmentation's has ``convs=2`` and ``concat_input=true``.

    Args:
        backbone: a newly built backbone. Its strides are replaced by dilation here.
        num_classes: number of classes, K.
        output_stride: stride of the backbone's last feature map and of the logits.
        first_block_dilation: dilation of the first block of a dilated stage: that of its own stage (``full``) or of the stage
            before (``half``).
        convs: number of 3x3 convolutions in the head, each with a quarter of the channels of c5.
        concat_input: whether c5 is concatenated to their output, followed by one more 3x3 convolution.
        dropout: dropout probability before the classifier.
        aux_weight: loss weight of the auxiliary head on c4. 0 removes the head.
        align_corners: how the logits are upsampled to the size of the image. True enlarges images to sides of 8k+1 (at output stride 8).
    """
    return DilatedFCN(
        backbone.set_output_stride_(output_stride, first_block_dilation),
        num_classes,
        convs=convs,
        concat_input=concat_input,
        dropout=dropout,
        aux_weight=aux_weight,
        align_corners=align_corners,
    )


class DilatedFCN(SegModel):
    """The network that ``fcn_dilated`` builds.

    Shapes:
        (N, 3, H, W) -> main (N, K, H/8, W/8); in training one aux of (N, K, H/8, W/8)
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        convs: int,
        concat_input: bool,
        dropout: float,
        aux_weight: float,
        align_corners: bool,
    ):
        aux = [(FCNHead(backbone.channels["c4"], num_classes, AUX_DROPOUT), aux_weight)] if aux_weight else []
        super().__init__(backbone, num_classes, align_corners=align_corners, aux=aux)
        cin = backbone.channels["c5"]
        width = cin // 4
        self.convs = nn.Sequential(*(ConvBN(source, width, 3) for source in [cin] + [width] * (convs - 1)))
        self.join = ConvBN(cin + width, width, 3) if concat_input else None
        self.dropout = Dropout(dropout)
        self.score = Classifier(width, num_classes)

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the backbone's output stride."""
        x = self.prepare_input(x)
        features = self.backbone.forward_stages(x)
        head = self.convs(features["c5"])
        if self.join is not None:
            head = self.join(torch.cat([features["c5"], head], 1))
        main = self.score(self.dropout(head))
        return Logits(main, self.aux_logits(features["c4"]))

    def external_head_names(self, layout: str) -> dict[str, str]:
        """Torchvision's and mmsegmentation's layer names.

        Torchvision's head has one convolution and no ``concat_input``. mmsegmentation's may have any form.
        """
        if layout == "torchvision" and len(self.convs) == 1 and self.join is None:
            main = {"convs.0.conv": "classifier.0", "convs.0.bn": "classifier.1", "score": "classifier.4"}
            aux = {"aux.0.0.conv": "aux_classifier.0", "aux.0.0.bn": "aux_classifier.1", "aux.0.2": "aux_classifier.4"}
            return main | aux
        if layout == "mmseg":
            main = {"convs": "decode_head.convs", "join": "decode_head.conv_cat", "score": "decode_head.conv_seg"}
            return main | {"aux.0.0": "auxiliary_head.convs.0", "aux.0.2": "auxiliary_head.conv_seg"}
        return {}
