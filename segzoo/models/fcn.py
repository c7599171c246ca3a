"""FCN: class scores of three depths, added and grown by deconvolutions.

Long et al., CVPR 2015, arXiv:1411.4038, sec. 4.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.backbones.vgg import VGG
from segzoo.layers.conv import Score, outside_autocast
from segzoo.models._base import SegModel
from segzoo.registry import MODELS, ConfigError, Range
from segzoo.types import Logits

SKIPS: dict[int, tuple[str, ...]] = {32: (), 16: ("c4",), 8: ("c4", "c3")}  # stages whose scores are added, coarse to fine


@MODELS.register
def fcn(
    backbone: Backbone,
    num_classes: int,
    *,
    stride: Literal[8, 16, 32] = 8,
    fc_channels: Annotated[int, Range(0, None)] | None = None,
    dropout: Annotated[float, Range(0, 0.95)] = 0.5,
    deconv: Literal["frozen", "learned"] = "frozen",
) -> FCN:
    """FCN-8s, FCN-16s or FCN-32s. On VGG-16 without batch norm it needs pre-trained weights.

    Args:
        backbone: a fresh trunk, left at output stride 32.
        num_classes: classes to score, K.
        stride: stride of the finest scores that are added: 8 (c5, c4, c3), 16 (c5, c4) or 32 (c5 alone).
        fc_channels: width of fc6 and fc7 behind c5; 0 scores c5 itself; null is 4096 on VGG and 0 on ResNets.
        dropout: share of the values dropped after fc6 and after fc7, in training.
        deconv: whether all deconvolutions stay bilinear (``frozen``, the release), or those before a sum are learned from
            there (``learned``, sec. 4.3); the last one always stays.

    Raises:
        ConfigError: if ``learned`` is asked for at stride 32, where the last deconvolution is the only one.
    """
    if deconv == "learned" and stride == 32:
        raise ConfigError(
            "model.deconv='learned': at stride 32 the only deconvolution is the last, which stays bilinear; use frozen"
        )
    if fc_channels is None:
        fc_channels = 4096 if isinstance(backbone, VGG) else 0
    return FCN(backbone, num_classes, SKIPS[stride], stride, fc_channels, dropout, learned=deconv == "learned")


class FCN(SegModel):
    """The network that ``fcn`` builds.

    The deconvolutions are layers of the published network with parameters of their own, so they are part of the model, and its
    logits have the size of the image. Deviation: the release pads the image by 100 pixels and crops by fixed offsets; here the
    convolutions keep the size of their map, and each deconvolution is cropped, centred, to the map or image it must meet.
    All scores start at zero and all arithmetic on scores is fp32.

    Args:
        backbone: the trunk.
        num_classes: classes to score, K.
        skips: stages whose scores are added, coarse to fine.
        stride: stride of the last of them, which the last deconvolution makes up for.
        fc_channels: width of fc6 and fc7, 0 for none.
        dropout: after fc6 and fc7.
        learned: whether the deconvolutions before a sum are learned.

    Shapes:
        (N, 3, H, W) -> main (N, K, H, W); no auxiliary logits
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        skips: tuple[str, ...],
        stride: int,
        fc_channels: int,
        dropout: float,
        *,
        learned: bool,
    ):
        super().__init__(backbone, num_classes, align_corners=False)
        deep = backbone.channels["c5"]
        self.fc = _fully_connected(deep, fc_channels, dropout) if fc_channels else nn.Identity()
        self.score = _zero_score(fc_channels or deep, num_classes)
        self.skips = nn.ModuleDict({name: _zero_score(backbone.channels[name], num_classes) for name in skips})
        self.ups = nn.ModuleDict({name: Deconv(num_classes, 2, learned=learned) for name in skips})
        self.last_up = Deconv(num_classes, stride, learned=False)

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the size of the image; see the class for shapes."""
        self.check_input(x)
        maps = self.backbone.run(x)
        scores = self.score(self.fc(maps["c5"]))
        for name, score in self.skips.items():
            skip = score(maps[name])
            scores = skip + _cropped(self.ups[name](scores), skip)
        return Logits(_cropped(self.last_up(scores), x))


class Deconv(nn.ConvTranspose2d):
    """A transposed convolution between all classes, without bias, that starts as bilinear growing of each class; fp32.

    Args:
        num_classes: classes, K; the K x K kernels start diagonal.
        stride: factor by which it grows, even; kernels are 2 x stride pixels a side.
        learned: whether its weights have a gradient.

    Shapes:
        (N, K, h, w) -> (N, K, stride * (h + 1), stride * (w + 1)) float32
    """

    def __init__(self, num_classes: int, stride: int, *, learned: bool):
        super().__init__(num_classes, num_classes, 2 * stride, stride, bias=False)
        tap = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(num_classes), range(num_classes)] = tap[:, None] * tap
        self.weight.requires_grad_(learned)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        with outside_autocast(input):
            return super().forward(input.float(), output_size)


def _fully_connected(cin: int, channels: int, dropout: float) -> nn.Sequential:
    """fc6 and fc7 as convolutions; fc6 is padded so that the map keeps its size."""
    layers = []
    for source, kernel in ((cin, 7), (channels, 1)):
        conv = nn.Conv2d(source, channels, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.ReLU(inplace=True), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def _zero_score(cin: int, num_classes: int) -> Score:
    score = Score(cin, num_classes)
    for parameter in score.parameters():
        nn.init.zeros_(parameter)
    return score


def _cropped(grown: Tensor, partner: Tensor) -> Tensor:
    """The middle of ``grown`` that has the height and width of ``partner``."""
    for axis in (2, 3):  # by index: an export with dynamic size cannot prove that a slice stays inside
        side = partner.shape[axis]
        first = (grown.shape[axis] - side) // 2
        grown = grown.index_select(axis, first + torch.arange(side, device=grown.device))
    return grown
