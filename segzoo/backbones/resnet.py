"""ResNet-50 and ResNet-101 in the variants of segmentation papers.

He et al., CVPR 2016, arXiv:1512.03385. Deviations, each a setting: a stem of three 3x3 convolutions, the stride of c3, c4 and c5 in
the 3x3 convolution of their first block instead of the 1x1 (as torchvision's weights were trained), and a scaled width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Annotated, Literal

from torch import Tensor, nn

from segzoo.backbones._base import Backbone, init_weights
from segzoo.layers.conv import Conv2d
from segzoo.registry import BACKBONES, ConfigError, Range
from segzoo.weights import load_backbone

Stem = Literal["basic", "deep", "v1c"]
StrideAt = Literal["3x3", "1x1"]
Width = Annotated[float, Range(0.125, 2.0)]

DEEP_STEMS = {"deep": (64, 64, 128), "v1c": (32, 32, 64)}  # channels of the three 3x3 convolutions


@BACKBONES.register
def resnet50(
    *,
    stem: Stem = "basic",
    stride_at: StrideAt = "3x3",
    width: Width = 1.0,
    weights: str = "none",
    checkpoint: bool = False,
) -> ResNet:
    """ResNet-50: 3, 4, 6 and 3 bottlenecks in c2 to c5.

    Settings as in ``resnet101``.
    """
    return _build("resnet50", (3, 4, 6, 3), stem, stride_at, width, weights, checkpoint)


@BACKBONES.register
def resnet101(
    *,
    stem: Stem = "basic",
    stride_at: StrideAt = "3x3",
    width: Width = 1.0,
    weights: str = "none",
    checkpoint: bool = False,
) -> ResNet:
    """ResNet-101: 3, 4, 23 and 3 bottlenecks in c2 to c5.

    Args:
        stem: ``basic`` (7x7, 64 channels), ``deep`` (three 3x3 with 64, 64, 128 channels, as in PSPNet and ICNet) or ``v1c`` (three
            3x3 with 32, 32, 64).
        stride_at: strided convolution in the first bottleneck of c3, c4 and c5.
        width: factor of all channel counts, 0.125 to 2. ICNet's backbone has 0.5.
        weights: ``none``, ``imagenet`` (torchvision's IMAGENET1K_V1) or a file. See ``segzoo.weights.load_backbone``.
        checkpoint: whether training recomputes the activations of each block in its backward pass, which saves memory.
    """
    return _build("resnet101", (3, 4, 23, 3), stem, stride_at, width, weights, checkpoint)


def _build(
    name: str, blocks: tuple[int, ...], stem: Stem, stride_at: StrideAt, width: float, weights: str, checkpoint: bool
) -> ResNet:
    backbone = ResNet(name, blocks, stem, stride_at, width)
    backbone.checkpoint = checkpoint
    load_backbone(backbone, weights)
    return backbone


class ResNet(Backbone):
    """A ResNet of bottleneck blocks.

    c1 is the stem, c2 begins with the 3x3 max-pool of stride 2, and ``c3_1`` is the end of c3's first block.

    Shapes:
        (N, 3, H, W) -> c1 (N, 64, H/2, W/2), c2 (N, 256, H/4, W/4), c3 (N, 512, H/8, W/8), c4 (N, 1024, H/16, W/16),
        c5 (N, 2048, H/32, W/32) at width 1 with the basic stem, with sizes rounded up.
    """

    def __init__(self, name: str, blocks: tuple[int, ...], stem: Stem, stride_at: StrideAt, width: float):
        mids = [round(64 * 2**i * width) for i in range(4)]
        channels = [_stem_channels(stem, width)[-1], *(4 * mid for mid in mids)]
        layers = [_stem(stem, width)]
        for index, (count, mid) in enumerate(zip(blocks, mids, strict=True)):
            layers.append(_stage(channels[index], mid, count, stride_at, pool=index == 0))
        super().__init__(name, layers, channels, inner=1)
        self.stem, self.stride_at, self.width = stem, stride_at, width
        init_weights(self)
        for block in self.modules():
            if isinstance(block, Bottleneck):
                nn.init.zeros_(block.bn3.weight)  # blocks start as the identity; Goyal et al., arXiv:1706.02677, sec. 5.1

    def imagenet(self, *, narrowed: bool = False) -> tuple[str, str]:
        """Torchvision's IMAGENET1K_V1 weights.

        The note names the stem and the stride position if they differ from this backbone's.

        Raises:
            ConfigError: the width is not 1, or with ``narrowed`` above 1.
        """
        if self.width > 1 or (self.width < 1 and not narrowed):
            raise ConfigError(
                f"backbone.weights='imagenet': the published weights have width 1, this {self.name} has width {self.width:g}. "
                "Set backbone.width=1, set backbone.weights to none or a file, or narrow them to a smaller width with init.ckpt=imagenet "
                "init.narrow=l1."
            )
        notes = []
        if self.stem != "basic":
            # v1c has as many output channels as the basic stem
            layers = "deep stem and the layers that read it are" if self.stem == "deep" else "v1c stem is"
            notes.append(f"trained with the basic stem: the {layers} newly initialized")
        if self.stride_at != "3x3":
            notes.append("trained with the stride in the 3x3 convolution")
        return f"{self.name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1", "; ".join(notes)

    def key_aliases(self, keys: Collection[str]) -> dict[str, str]:
        """Torchvision's, timm's and mmsegmentation's layer names.

        The stem is included only if the file has the same kind of stem.
        """
        stages = {f"layer{i}.": f"c{i + 1}." for i in range(1, 5)}
        if self.stem == "basic":
            return stages | ({} if {"conv1.0.weight", "stem.0.weight"} & {*keys} else {"conv1.": "c1.0.", "bn1.": "c1.1."})
        if "stem.0.weight" in keys:
            return stages | {"stem.": "c1."}
        return stages | ({"conv1.": "c1.", "bn1.": "c1.7."} if "conv1.0.weight" in keys else {})

    def external_names(self, layout: str) -> dict[str, str]:
        """Local names to torchvision's, mmsegmentation's or Caffe's.

        Prefixes for torchvision and mmsegmentation. For Caffe every layer of the deep stem and of the blocks, and nothing for other
        stems.
        """
        if layout == "caffe":
            return self._caffe_names() if self.stem == "deep" else {}
        if layout == "torchvision" and self.stem != "basic":
            return {}
        stem = {"c1.0": "backbone.conv1", "c1.1": "backbone.bn1"} if self.stem == "basic" else {"c1": "backbone.stem"}
        return stem | {f"c{i + 1}": f"backbone.layer{i}" for i in range(1, 5)}

    def _caffe_names(self) -> dict[str, str]:
        convs = {f"c1.{3 * i}": f"conv1_{i + 1}_3x3{'_s2' * (i == 0)}" for i in range(3)}
        batch_norms = {f"c1.{3 * i + 1}": f"conv1_{i + 1}_3x3{'_s2' * (i == 0)}/bn" for i in range(3)}
        for number, stage in enumerate(self.stages[1:], 2):
            for index, _ in enumerate(m for m in self.get_submodule(stage.name).children() if isinstance(m, Bottleneck)):
                local, external = f"{stage.name}.{index}", f"conv{number}_{index + 1}"
                for i, suffix in enumerate(("1x1_reduce", "3x3", "1x1_increase"), 1):
                    convs[f"{local}.conv{i}"] = f"{external}_{suffix}"
                    batch_norms[f"{local}.bn{i}"] = f"{external}_{suffix}/bn"
                convs[f"{local}.downsample.0"] = f"{external}_1x1_proj"
                batch_norms[f"{local}.downsample.1"] = f"{external}_1x1_proj/bn"
        return convs | batch_norms

    def _dilate(self, output_stride: int, first_block_dilation: str) -> None:
        dilation = 1
        for stage in self.stages:
            if stage.stride <= output_stride:
                continue
            blocks = [block for block in self.get_submodule(stage.name).children() if isinstance(block, Bottleneck)]
            for index, block in enumerate(blocks):
                block.stride_to_dilation(dilation if index == 0 and first_block_dilation == "half" else 2 * dilation)
            dilation *= 2


class Bottleneck(nn.Module):
    """A bottleneck residual block.

    1x1 reduction, 3x3 and 1x1 expansion by 4, each with batch norm, are added to the (projected) input, then a ReLU follows.

    Args:
        cin: input channels.
        mid: channels of the first two convolutions. The output has 4 times as many.
        stride: 1 or 2, in the convolution named by ``stride_at`` and in the projection.
        stride_at: ``3x3`` or ``1x1``.
    """

    def __init__(self, cin: int, mid: int, stride: int, stride_at: StrideAt):
        super().__init__()
        reduce, middle = (stride, 1) if stride_at == "1x1" else (1, stride)
        self.conv1 = Conv2d(cin, mid, 1, reduce, bias=False)
        self.bn1 = nn.BatchNorm2d(mid)
        self.conv2 = Conv2d(mid, mid, 3, middle, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(mid)
        self.conv3 = Conv2d(mid, 4 * mid, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * mid)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or cin != 4 * mid:
            self.downsample = nn.Sequential(Conv2d(cin, 4 * mid, 1, stride, bias=False), nn.BatchNorm2d(4 * mid))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)

    def stride_to_dilation(self, dilation: int) -> None:
        """Replace the stride of every convolution by dilation of the 3x3."""
        self.conv1.stride = self.conv2.stride = (1, 1)
        self.conv2.dilation = self.conv2.padding = (dilation, dilation)
        if self.downsample is not None:
            self.downsample[0].stride = (1, 1)  # type: ignore[assignment]


def _stem_channels(stem: Stem, width: float) -> list[int]:
    return [round(channels * width) for channels in DEEP_STEMS.get(stem, (64,))]


def _stem(stem: Stem, width: float) -> nn.Sequential:
    kernel = 7 if stem == "basic" else 3
    layers, cin, stride = [], 3, 2
    for cout in _stem_channels(stem, width):
        conv = Conv2d(cin, cout, kernel, stride, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(cout), nn.ReLU(inplace=True)]
        cin, stride = cout, 1
    return nn.Sequential(*layers)


def _stage(cin: int, mid: int, count: int, stride_at: StrideAt, *, pool: bool) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    if pool:
        layers["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    layers["0"] = Bottleneck(cin, mid, 1 if pool else 2, stride_at)
    for index in range(1, count):
        layers[str(index)] = Bottleneck(4 * mid, mid, 1, stride_at)
    return nn.Sequential(layers)
