"""FCN: class scores of three depths, added and grown by deconvolutions.

Long et al., CVPR 2015, arXiv:1411.4038, sec. 4.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.backbones._base import Backbone
from segzoo.backbones.vgg import VGG
from segzoo.layers.conv import Classifier, autocast_disabled
from segzoo.models._base import SegModel
from segzoo.models._fc6_fc7 import Fc6Fc7
from segzoo.registry import MODELS, ConfigError, Range
from segzoo.types import Logits

SKIPS: dict[int, tuple[str, ...]] = {32: (), 16: ("c4",), 8: ("c4", "c3")}  # stages whose scores are added, coarse to fine
PAD = 100  # zeros around the image in the release, of which the first convolution brings one
OFFSETS = {"c4": 5, "c3": 9, 32: 19, 16: 27, 8: 31}  # pixels cut off above and left of a skip's scores, or of the last growing
AT_ONCE = {"c4": 0.01, "c3": 0.0001}  # factors that take the place of the stages' falling rates


@MODELS.register
def fcn(
    backbone: Backbone,
    num_classes: int,
    *,
    stride: Literal[8, 16, 32] = 8,
    fc_channels: Annotated[int, Range(0, None)] | None = None,
    dropout: Annotated[float, Range(0, 0.95)] = 0.5,
    deconv: Literal["frozen", "learned"] = "frozen",
    geometry: Literal["same", "pad100"] = "same",
    at_once: bool = False,
) -> FCN:
    """FCN-8s, FCN-16s or FCN-32s. On VGG-16 without batch norm it needs pre-trained weights.

    Args:
        backbone: a fresh backbone, left at output stride 32.
        num_classes: classes to score, K.
        stride: stride of the finest scores that are added: 8 (c5, c4, c3), 16 (c5, c4) or 32 (c5 alone).
        fc_channels: width of fc6 and fc7 behind c5; 0 scores c5 itself; null is 4096 on VGG and 0 on ResNets.
        dropout: share of the values dropped after fc6 and after fc7, in training.
        deconv: whether all deconvolutions stay bilinear (``frozen``, the release), or those before a sum are learned from
            there (``learned``, sec. 4.3); the last one always stays.
        geometry: ``same``: maps keep their size and grown scores are cropped around their middle; ``pad100``: the release's, an image
            padded by 100 pixels, a fc6 that keeps none of the border, and crops at fixed offsets.
        at_once: whether c4 and c3 are damped by 0.01 and 0.0001 before they are scored, to train all at once and not 32s, 16s, 8s.

    Raises:
        ConfigError: if ``learned`` is asked for at stride 32, where the last deconvolution is the only one, or ``pad100`` on any other
            backbone than a VGG with ``caffe`` pools, or without fc6.
    """
    if deconv == "learned" and stride == 32:
        raise ConfigError(
            "model.deconv='learned': at stride 32 the only deconvolution is the last, which stays bilinear; use frozen"
        )
    if fc_channels is None:
        fc_channels = 4096 if isinstance(backbone, VGG) else 0
    padded = geometry == "pad100"
    if padded and not (isinstance(backbone, VGG) and backbone.pool == "caffe" and fc_channels):
        raise ConfigError(
            "model.geometry='pad100' belongs to VGG-16 with pools that round up and with fc6: set backbone=vgg16 backbone.pool=caffe "
            "and leave model.fc_channels, or take model.geometry=same"
        )
    fc = None
    if fc_channels:
        fc = Fc6Fc7(backbone.channels["c5"], fc_channels, 7, 1, dropout, padded=not padded).init_from_vgg(backbone)
    return FCN(backbone, num_classes, fc, stride, learned=deconv == "learned", padded=padded, at_once=at_once)


class FCN(SegModel):
    """The network that ``fcn`` builds.

    The deconvolutions are layers of the published network with parameters of their own, so they are part of the model, and its
    logits have the size of the image. Deviation, unless padded: the convolutions keep the size of their map, and each deconvolution
    is cropped, centered, to the map or image it must meet. All scores start at zero and all arithmetic on scores is fp32.

    Args:
        backbone: the backbone.
        num_classes: classes to score, K.
        fc: fc6 and fc7, or None to score c5 itself.
        stride: stride of the finest scores, which the last deconvolution makes up for.
        learned: whether the deconvolutions before a sum are learned.
        padded: whether image and crops are the release's.
        at_once: whether c4 and c3 are damped.

    Shapes:
        (N, 3, H, W) -> main (N, K, H, W); no auxiliary logits
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        fc: Fc6Fc7 | None,
        stride: int,
        *,
        learned: bool,
        padded: bool,
        at_once: bool,
    ):
        super().__init__(backbone, num_classes, align_corners=False)
        self.fc = nn.Identity() if fc is None else fc
        self.score = _zero_score(backbone.channels["c5"] if fc is None else fc.channels, num_classes)
        self.skips = nn.ModuleDict({name: _zero_score(backbone.channels[name], num_classes) for name in SKIPS[stride]})
        self.ups = nn.ModuleDict({name: Deconv(num_classes, 2, learned=learned) for name in SKIPS[stride]})
        self.last_up = Deconv(num_classes, stride, learned=False)
        self.stride, self.padded, self.at_once = stride, padded, at_once

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the size of the image; see the class for shapes."""
        self.check_input(x)
        maps = self.backbone.forward_stages(F.pad(x, [PAD - 1] * 4) if self.padded else x)
        scores = self.score(self.fc(maps["c5"]))
        for name, score in self.skips.items():
            skip, grown = score(maps[name] * AT_ONCE[name] if self.at_once else maps[name]), self.ups[name](scores)
            scores = _cropped(skip, grown, OFFSETS[name]) + grown if self.padded else skip + _cropped(grown, skip)
        return Logits(_cropped(self.last_up(scores), x, OFFSETS[self.stride] if self.padded else None))


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
        with autocast_disabled(input):
            return super().forward(input.float(), output_size)


def _zero_score(cin: int, num_classes: int) -> Classifier:
    score = Classifier(cin, num_classes)
    for parameter in score.parameters():
        nn.init.zeros_(parameter)
    return score


def _cropped(large: Tensor, partner: Tensor, first: int | None = None) -> Tensor:
    """The part of ``large`` with the height and width of ``partner``: its middle, or what begins at row and column ``first``."""
    for axis in (2, 3):  # by index: an export with dynamic size cannot prove that a slice stays inside
        side = partner.shape[axis]
        begin = (large.shape[axis] - side) // 2 if first is None else first
        large = large.index_select(axis, begin + torch.arange(side, device=large.device))
    return large
