"""DeepLab-LargeFOV: a dilated VGG-16 with a large field of view.

Chen et al., ICLR 2015, arXiv:1412.7062, sec. 3 and 4.3 (DeepLab v1). Its fully connected CRF is ``post=crf``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, Conv2d, init_normal_
from segzoo.layers.dropout import Dropout
from segzoo.layers.resize import resize
from segzoo.models._base import SegModel
from segzoo.models._fc6_fc7 import Fc6Fc7
from segzoo.registry import MODELS, Range
from segzoo.types import Logits

BRANCH_CHANNELS = 128  # width of a multi-scale branch
BRANCH_INPUTS = ("c1", "c2", "c3", "c4")  # feature maps with a branch, as has the image; pool1 to pool4 on VGG


@MODELS.register
def deeplab_largefov(
    backbone: Backbone,
    num_classes: int,
    *,
    output_stride: Literal[8, 16, 32] = 8,
    first_block_dilation: Literal["full", "half"] = "full",
    kernel: Annotated[int, Range(1, 7)] = 3,
    dilation: Annotated[int, Range(1, 1024)] = 12,
    fc_channels: Annotated[int, Range(1, 65536)] = 1024,
    average_pool: bool = True,
    msc: Literal["none", "frozen", "joint"] = "none",
    dropout: Annotated[float, Range(0, 0.95)] = 0.5,
    align_corners: bool = True,
) -> LargeFOV:
    """DeepLab-LargeFOV on any backbone.

    On VGG-16 without batch norm it needs pretrained weights. The paper's other fields of view are settings: ``kernel=7 dilation=4
    fc_channels=4096 average_pool=false``, and the same with ``kernel=4`` and dilation 4 or 8. They keep the pools of the backbone. Deviation:
    pool1 to pool4 of the released network with ``kernel=4 dilation=4`` are 2x2, with a padding that no backbone here has.

    Args:
        backbone: a newly built backbone. Its strides are replaced by dilation here. The release uses VGG-16 with ``deeplab`` pools.
        num_classes: number of classes, K.
        output_stride: stride of the backbone's last feature map.
        first_block_dilation: dilation of the first block of a dilated ResNet stage: that of its own stage (``full``) or of the
            stage before (``half``).
        kernel: kernel size of fc6.
        dilation: dilation of fc6, in pixels of its input. 12 covers the area of the 7x7 kernel that VGG-16 was trained with.
        fc_channels: width of fc6 and fc7.
        average_pool: whether c5 passes through a 3x3 average pool of stride 1 before fc6 (pool5a).
        msc: multi-scale prediction (sec. 4.3), which adds scores from the image and from pool1 to pool4. ``none``; ``frozen``: only
            the branches are trained, as in the release, starting from a trained model given by init.ckpt; ``joint``: all is
            trained.
        dropout: dropout probability after fc6, fc7 and the branches' convolutions.
        align_corners: how the logits are upsampled to the size of the image. True enlarges images to sides of 8k+1 (at output stride 8).

    Raises:
        ConfigError: kernel and dilation cannot be padded evenly.
    """
    backbone.set_output_stride_(output_stride, first_block_dilation)
    fc = Fc6Fc7(backbone.channels["c5"], fc_channels, kernel, dilation, dropout).init_from_vgg(backbone)
    return LargeFOV(backbone, num_classes, fc, average_pool=average_pool, msc=msc, dropout=dropout, align_corners=align_corners)


class LargeFOV(SegModel):
    """The network that ``deeplab_largefov`` builds.

    With multi-scale branches (MSc), training and evaluation differ, as in the release. In training, strided branches match the size
    of the backbone's last feature map. In evaluation, branches keep the size of their inputs, and all scores are added at image
    size.

    Shapes:
        (N, 3, H, W) -> main (N, K, H/8, W/8) rounded up, in evaluation with branches (N, K, H, W); no auxiliary logits. H and W are those
        of the enlarged image.
    """

    loss_resolution = "logits"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        fc: Fc6Fc7,
        *,
        average_pool: bool,
        msc: Literal["none", "frozen", "joint"],
        dropout: float,
        align_corners: bool,
    ):
        super().__init__(backbone, num_classes, align_corners=align_corners)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1) if average_pool else nn.Identity()
        self.fc = fc
        self.score = Classifier(fc.channels, num_classes)
        init_normal_(self.score, 0.01)
        if msc == "frozen":
            self.requires_grad_(False)
            backbone.freeze_([stage.name for stage in backbone.stages])
        self.branches = nn.ModuleDict()
        if msc != "none":
            strides = {stage.name: max(1, backbone.output_stride // stage.stride) for stage in backbone.stages}
            self.branches["image"] = Branch(3, num_classes, backbone.output_stride, dropout)
            for name in BRANCH_INPUTS:
                self.branches[name] = Branch(backbone.channels[name], num_classes, strides[name], dropout)
            init_normal_(self.get_submodule("branches.c4.mix"), 0.005)  # type: ignore[arg-type]  # as in the release
            nn.init.zeros_(self.get_parameter("branches.c3.score.weight"))

    def forward(self, x: Tensor) -> Logits:
        """Class scores, with shapes as in the class docstring."""
        x = self.prepare_input(x)
        features = self.backbone.forward_stages(x)
        main = self.score(self.fc(self.pool(features["c5"])))
        if not self.branches:
            return Logits(main)
        size = main.shape[-2:] if self.training else x.shape[-2:]
        scores = [main, *(branch(x if name == "image" else features[name]) for name, branch in self.branches.items())]
        return Logits(sum(self._upsample(score, size) for score in scores))  # type: ignore[arg-type]

    def _upsample(self, score: Tensor, size: tuple[int, int]) -> Tensor:
        return score if score.shape[-2:] == size else resize(score, size, self.align_corners)


class Branch(nn.Module):
    """A multi-scale branch: class scores of one high-resolution feature map.

    A 3x3 convolution to 128 channels, a 1x1 convolution and a 1x1 classifier. Strided in training only.

    Args:
        cin: input channels.
        num_classes: number of classes, K.
        stride: stride of the 3x3 convolution in training.
        dropout: dropout probability after the first two convolutions.

    Shapes:
        (N, cin, H, W) -> (N, K, H, W), in training (N, K, ceil(H/stride), ceil(W/stride))
    """

    def __init__(self, cin: int, num_classes: int, stride: int, dropout: float):
        super().__init__()
        self.wide = TrainOnlyStrideConv(cin, BRANCH_CHANNELS, stride)
        self.mix = Conv2d(BRANCH_CHANNELS, BRANCH_CHANNELS, 1)
        self.dropout = Dropout(dropout)
        self.score = Classifier(BRANCH_CHANNELS, num_classes)
        for conv, std in ((self.wide, 0.001), (self.mix, 0.001), (self.score, 0.01)):
            init_normal_(conv, std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.wide(x)))
        return self.score(self.dropout(F.relu(self.mix(x))))


class TrainOnlyStrideConv(nn.Conv2d):
    """A 3x3 convolution that is strided in training only.

    Shapes:
        (N, cin, H, W) -> (N, cout, H, W), in training (N, cout, ceil(H/stride), ceil(W/stride))
    """

    def __init__(self, cin: int, cout: int, train_stride: int):
        super().__init__(cin, cout, 3, padding=1)
        self.train_stride = train_stride

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.train_stride if self.training else 1, self.padding)
