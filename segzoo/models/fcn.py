"""FCN: class scores of three depths, upsampled by transposed convolutions and added.

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
PAD = 100  # zeros around the image in the release, one of them from the first convolution
OFFSETS = {"c4": 5, "c3": 9, 32: 19, 16: 27, 8: 31}  # rows and columns cropped before a skip's or the final upsampled scores
AT_ONCE = {"c4": 0.01, "c3": 0.0001}  # factors that replace the decreasing learning rates of stage-wise training


@MODELS.register
def fcn(
    backbone: Backbone,
    num_classes: int,
    *,
    stride: Literal[8, 16, 32] = 8,
    fc_channels: Annotated[int, Range(0, 65536)] | None = None,
    dropout: Annotated[float, Range(0, 0.95)] = 0.5,
    deconv: Literal["frozen", "learned"] = "frozen",
    geometry: Literal["same", "pad100"] = "same",
    at_once: bool = False,
) -> FCN:
    """FCN-8s, FCN-16s or FCN-32s.

    On VGG-16 without batch norm it needs pretrained weights.

    Args:
        backbone: a newly built backbone, left at output stride 32.
        num_classes: number of classes, K.
        stride: stride of the finest scores that are added: 8 (c5, c4, c3), 16 (c5, c4) or 32 (c5 only).
        fc_channels: width of fc6 and fc7 after c5. 0 classifies c5 itself. null is 4096 on VGG and 0 on ResNets.
        dropout: dropout probability after fc6 and after fc7.
        deconv: ``frozen``: all transposed convolutions stay bilinear, as in the release; ``learned``: those before a sum are
            trained, starting from bilinear weights (sec. 4.3). The last one is always frozen.
        geometry: ``same``: convolutions keep the size of their input, and upsampled scores are center-cropped; ``pad100``: as in
            the release, the image is padded by 100 pixels, fc6 is unpadded, and crops start at fixed offsets.
        at_once: whether c4 and c3 are scaled by 0.01 and 0.0001 before their classifiers, to train all depths at once instead of
            32s, 16s and 8s in sequence.

    Raises:
        ConfigError: ``learned`` at stride 32, where the last transposed convolution is the only one, or ``pad100`` with any
            backbone other than a VGG with ``caffe`` pools, or without fc6.
    """
    if deconv == "learned" and stride == 32:
        raise ConfigError(
            "model.deconv='learned': at stride 32 the only transposed convolution is the last, which stays bilinear: set model.deconv=frozen"
        )
    if fc_channels is None:
        fc_channels = 4096 if isinstance(backbone, VGG) else 0
    padded = geometry == "pad100"
    if padded and not (isinstance(backbone, VGG) and backbone.pool == "caffe" and fc_channels):
        raise ConfigError(
            "model.geometry='pad100' requires VGG-16 with pools that round up and with fc6: set backbone=vgg16 backbone.pool=caffe "
            "and leave model.fc_channels at its default, or set model.geometry=same"
        )
    fc = None
    if fc_channels:
        fc = Fc6Fc7(backbone.channels["c5"], fc_channels, 7, 1, dropout, padded=not padded).init_from_vgg(backbone)
    return FCN(backbone, num_classes, fc, stride, learned=deconv == "learned", padded=padded, at_once=at_once)


class FCN(SegModel):
    """The network that ``fcn`` builds.

    In the published network the transposed convolutions are layers with their own parameters. They are therefore part of the model,
    and its logits have the size of the image. Deviation, unless ``padded``: convolutions keep the size of their input, and the
    output of each transposed convolution is cropped by half its stride, at any size, to the feature map or image that it is aligned with. All classifiers
    start at zero, and all arithmetic on scores is fp32.

    Args:
        backbone: the backbone.
        num_classes: number of classes, K.
        fc: fc6 and fc7, or None to classify c5 itself.
        stride: stride of the finest scores, by which the last transposed convolution upsamples.
        learned: whether the transposed convolutions before a sum are trained.
        padded: whether the image is padded and scores are cropped as in the release.
        at_once: whether c4 and c3 are scaled down.

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
        self.score = _zero_classifier(backbone.channels["c5"] if fc is None else fc.channels, num_classes)
        self.skips = nn.ModuleDict({name: _zero_classifier(backbone.channels[name], num_classes) for name in SKIPS[stride]})
        self.ups = nn.ModuleDict({name: Deconv(num_classes, 2, learned=learned) for name in SKIPS[stride]})
        self.last_up = Deconv(num_classes, stride, learned=False)
        self.stride, self.padded, self.at_once = stride, padded, at_once

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the size of the image."""
        x = self.prepare_input(x)
        features = self.backbone.forward_stages(F.pad(x, [PAD - 1] * 4) if self.padded else x)
        scores = self.score(self.fc(features["c5"]))
        for name, score in self.skips.items():
            skip = score(features[name] * AT_ONCE[name] if self.at_once else features[name])
            upsampled = self.ups[name](scores)
            scores = _crop(skip, upsampled, OFFSETS[name]) + upsampled if self.padded else skip + _crop(upsampled, skip, 1)
        return Logits(_crop(self.last_up(scores), x, OFFSETS[self.stride] if self.padded else self.stride // 2))


class Deconv(nn.ConvTranspose2d):
    """A transposed convolution of class scores that starts as bilinear upsampling.

    It connects all classes, has no bias and computes in fp32.

    Args:
        num_classes: number of classes, K. The K x K kernels are diagonal at first.
        stride: upsampling factor, even. The kernel size is 2 x stride.
        learned: whether the weights are trained.

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


def _zero_classifier(cin: int, num_classes: int) -> Classifier:
    classifier = Classifier(cin, num_classes)
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    return classifier


def _crop(large: Tensor, reference: Tensor, first: int) -> Tensor:
    """Crop to the height and width of a reference.

    The crop begins at row and column ``first``. The last row and column are repeated if they end before those of the reference, as after pools that round sizes down.
    """
    for axis in (2, 3):  # index_select: export with a dynamic size cannot prove that a slice stays inside
        indices = first + torch.arange(reference.shape[axis], device=large.device)
        large = large.index_select(axis, indices.clamp(max=large.shape[axis] - 1))
    return large
