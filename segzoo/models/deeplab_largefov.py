"""DeepLab-LargeFOV: VGG-16 whose last strides became dilation, and a fully connected layer with a wide field of view.

Chen et al., ICLR 2015, arXiv:1412.7062, sec. 3 and 4.3 (DeepLab v1). The fully connected CRF that follows it is ``post=crf``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, init_normal_
from segzoo.layers.resize import resize
from segzoo.models._base import SegModel
from segzoo.models._fc6_fc7 import Fc6Fc7
from segzoo.registry import MODELS, Range
from segzoo.types import Logits

BRANCH = 128  # channels of a multi-scale branch
FINE = ("c1", "c2", "c3", "c4")  # maps that have a branch, besides the image; pool1 to pool4 on VGG


@MODELS.register
def deeplab_largefov(
    backbone: Backbone,
    num_classes: int,
    *,
    output_stride: Literal[8, 16, 32] = 8,
    first_block_dilation: Literal["full", "half"] = "full",
    kernel: Annotated[int, Range(1, 7)] = 3,
    dilation: Annotated[int, Range(1, None)] = 12,
    fc_channels: Annotated[int, Range(1, None)] = 1024,
    average_pool: bool = True,
    msc: Literal["none", "frozen", "joint"] = "none",
    dropout: Annotated[float, Range(0, 0.95)] = 0.5,
    align_corners: bool = True,
) -> LargeFOV:
    """DeepLab-LargeFOV on any backbone. On VGG-16 without batch norm it needs pre-trained weights.

    The paper's other networks are settings: ``kernel=7 dilation=4 fc_channels=4096 average_pool=false``, ``kernel=4`` with dilation
    4 or 8 the same.

    Args:
        backbone: a fresh backbone; its strides become dilation here. The release has VGG-16 with ``deeplab`` pools.
        num_classes: classes to score, K.
        output_stride: stride of the backbone's last map.
        first_block_dilation: dilation of the first block of a dilated ResNet stage: its own (``full``) or the one before (``half``).
        kernel: taps a side of fc6.
        dilation: distance between them in pixels of the map: 12 sees as far as the seven taps VGG-16 was trained with.
        fc_channels: width of fc6 and fc7.
        average_pool: whether a 3x3 mean of stride 1 softens c5 before fc6 (pool5a).
        msc: scores from the image and from pool1 to pool4 added (sec. 4.3): ``none``, ``frozen`` (all else keeps its weights, the
            release; start from a trained model by init.ckpt) or ``joint``.
        dropout: share of the values dropped after fc6, fc7 and the branches' convolutions, in training.
        align_corners: how the logits grow to the size of the image; true goes with sizes 8k+1.

    Raises:
        ConfigError: if kernel and dilation cannot be padded evenly.
    """
    trunk = backbone.set_output_stride_(output_stride, first_block_dilation)
    fc = Fc6Fc7(trunk.channels["c5"], fc_channels, kernel, dilation, dropout).init_from_vgg(trunk)
    return LargeFOV(trunk, num_classes, fc, average_pool=average_pool, msc=msc, dropout=dropout, align_corners=align_corners)


class LargeFOV(SegModel):
    """The network that ``deeplab_largefov`` builds.

    With branches (MSc) training and evaluation differ, as in the release: in training the branches stride to the map of the backbone,
    in evaluation they keep the size of theirs and all scores are added at the size of the image.

    Shapes:
        (N, 3, H, W) -> main (N, K, H/8, W/8), in evaluation with branches (N, K, H, W); no auxiliary logits
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
            steps = {stage.name: max(1, backbone.output_stride // stage.stride) for stage in backbone.stages}
            self.branches["image"] = Branch(3, num_classes, backbone.output_stride, dropout)
            for name in FINE:
                self.branches[name] = Branch(backbone.channels[name], num_classes, steps[name], dropout)

    def forward(self, x: Tensor) -> Logits:
        """Class scores; see the class for shapes."""
        self.check_input(x)
        maps = self.backbone.forward_stages(x)
        main = self.score(self.fc(self.pool(maps["c5"])))
        if not self.branches:
            return Logits(main)
        size = main.shape[-2:] if self.training else x.shape[-2:]
        scores = [main, *(branch(x if name == "image" else maps[name]) for name, branch in self.branches.items())]
        return Logits(sum(self._upsample(score, size) for score in scores))  # type: ignore[arg-type]

    def _upsample(self, score: Tensor, size: tuple[int, int]) -> Tensor:
        return score if score.shape[-2:] == size else resize(score, size, self.align_corners)


class Branch(nn.Module):
    """Scores of one fine map: 3x3 to 128 channels, 1x1, 1x1; strided in training alone.

    Args:
        cin: channels of the map.
        num_classes: classes to score, K.
        stride: step of the 3x3 in training, in pixels of the map.
        dropout: share of the values dropped after the first two convolutions, in training.

    Shapes:
        (N, cin, H, W) -> (N, K, H, W), in training (N, K, ceil(H/stride), ceil(W/stride))
    """

    def __init__(self, cin: int, num_classes: int, stride: int, dropout: float):
        super().__init__()
        self.wide = TrainOnlyStrideConv(cin, BRANCH, stride)
        self.mix = nn.Conv2d(BRANCH, BRANCH, 1)
        self.dropout = nn.Dropout(dropout)
        self.score = Classifier(BRANCH, num_classes)
        for conv, std in ((self.wide, 0.001), (self.mix, 0.001), (self.score, 0.01)):
            init_normal_(conv, std)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.wide(x)))
        return self.score(self.dropout(F.relu(self.mix(x))))


class TrainOnlyStrideConv(nn.Conv2d):
    """A 3x3 convolution that strides in training and keeps the size of its map in evaluation.

    Shapes:
        (N, cin, H, W) -> (N, cout, H, W), in training (N, cout, ceil(H/step), ceil(W/step))
    """

    def __init__(self, cin: int, cout: int, step: int):
        super().__init__(cin, cout, 3, padding=1)
        self.step = step

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.step if self.training else 1, self.padding)
