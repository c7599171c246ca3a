"""VGG-16 without its classifier.

Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556, configuration D. Every convolution has a bias, also with batch norm.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from torch import Tensor, nn

from segzoo.backbones._base import Backbone, init_weights
from segzoo.registry import BACKBONES
from segzoo.weights import load_backbone, log_rank0
from segzoo.weights.conversion import CAFFE_FIRST_CONV

Pool = Literal["vgg", "caffe", "deeplab"]

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and number of convolutions of c1 to c5
CLASSIFIERS = (("classifier.0", "classifier.3"), ("pre_logits.fc1", "pre_logits.fc2"), ("fc6", "fc7"))  # torchvision, timm, Caffe


@BACKBONES.register
def vgg16(*, batch_norm: bool = False, pool: Pool = "vgg", weights: str = "none", checkpoint: bool = False) -> VGG:
    """VGG-16, with or without batch norm.

    Without batch norm it does not train from scratch: set ``weights``, or ``batch_norm=True``.

    Args:
        batch_norm: whether a batch norm follows each convolution.
        pool: ``vgg`` (2x2 with stride 2, odd sizes rounded down), ``caffe`` (the same, rounded up) or ``deeplab`` (3x3 with stride
            2 and padding 1, which aligns the corners at sizes 8k+1).
        weights: ``none``, ``imagenet`` (torchvision's) or a file. See ``segzoo.weights.load_backbone``.
        checkpoint: whether training recomputes the activations of each stage in its backward pass, which saves memory.
    """
    backbone = VGG("vgg16", batch_norm, pool)
    backbone.checkpoint = checkpoint
    load_backbone(backbone, weights)
    return backbone


class VGG(Backbone):
    """Thirteen 3x3 convolutions in five stages.

    Each stage ENDS with its max-pool, and ``c3_1`` is the end of c3. Dilation follows DeepLab-LargeFOV (Chen et al., ICLR 2015,
    arXiv:1412.7062, sec. 3.1): a pool that loses its stride becomes a 3x3 max-pool of stride 1, and the convolutions AFTER it are
    dilated. At output stride 8 these pools are pool4 and pool5, so conv5 gets dilation 2. At 16 it is pool5 only, and no layer of
    the backbone is dilated. A layer that a model builds on c5 (fc6) follows a removed stride of 4 or 2 and must choose its own
    dilation. ``full`` and ``half`` are the same network: the strides are at the ends of stages, so no stage has a first block that
    could keep an earlier dilation.

    Shapes:
        (N, 3, H, W) -> c1 (N, 64, H/2, W/2), c2 (N, 128, H/4, W/4), c3 (N, 256, H/8, W/8), c4 (N, 512, H/16, W/16),
        c5 (N, 512, H/32, W/32), with sizes rounded down by pool ``vgg`` and up by the others.
    """

    def __init__(self, name: str, batch_norm: bool, pool: Pool):
        layers, cin = [], 3
        for channels, convs in STAGES:
            layers.append(_stage(cin, channels, convs, batch_norm, pool))
            cin = channels
        super().__init__(name, layers, [channels for channels, _ in STAGES], inner=len(layers[2]))
        self.batch_norm, self.pool = batch_norm, pool
        self.trains_from_scratch = batch_norm
        init_weights(self)

    def imagenet(self, *, narrowed: bool = False) -> tuple[str, str]:
        """Torchvision's IMAGENET1K_V1 weights, with or without batch norm.

        The note names the pools if they differ from this backbone's.
        """
        entry = "VGG16_BN_Weights.IMAGENET1K_V1" if self.batch_norm else "VGG16_Weights.IMAGENET1K_V1"
        return entry, "trained with 2x2 pools" if self.pool == "deeplab" else ""

    def key_aliases(self, keys: Collection[str]) -> dict[str, str]:
        """Torchvision's and timm's ``features.N``, or Caffe's ``conv1_1``.

        The former are numbered across all stages.
        """
        layers = [
            (f"{stage.name}.{i}.", layer)
            for stage in self.stages
            for i, layer in enumerate(self.get_submodule(stage.name).children())
        ]
        if CAFFE_FIRST_CONV not in keys:
            return {f"features.{i}.": prefix for i, (prefix, _) in enumerate(layers)}
        convs = (prefix for prefix, layer in layers if isinstance(layer, nn.Conv2d))
        return {f"conv{stage}_{i}.": next(convs) for stage, (_, count) in enumerate(STAGES, 1) for i in range(1, count + 1)}

    def store_classifier(self, state: Mapping[str, Tensor]) -> None:
        """Store fc6 and fc7 of torchvision, timm or Caffe in ``classifier``.

        They may be fully connected layers or convolutions. Their absence is logged.
        """
        for first, second in CLASSIFIERS:
            names = {
                f"{own}.{part}": f"{layer}.{part}"
                for own, layer in (("fc6", first), ("fc7", second))
                for part in ("weight", "bias")
            }
            if all(name in state for name in names.values()):
                self.classifier = {name: state[external] for name, external in names.items()}
        if not self.classifier:
            log_rank0("these weights hold no fc6 and fc7: a model that has such layers initializes them newly")

    def _dilate(self, output_stride: int, first_block_dilation: str) -> None:
        dilation = 1
        for stage in self.stages:
            if stage.stride <= output_stride:
                continue
            for layer in self.get_submodule(stage.name).children():
                if isinstance(layer, nn.Conv2d):
                    layer.dilation = layer.padding = (dilation, dilation)
                elif isinstance(layer, nn.MaxPool2d):
                    layer.kernel_size, layer.stride, layer.padding = 3, 1, 1
            dilation *= 2

    def _halve(self, side: int) -> int:
        return side // 2 if self.pool == "vgg" else super()._halve(side)


def _stage(cin: int, channels: int, convs: int, batch_norm: bool, pool: Pool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers.append(nn.Conv2d(cin, channels, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
        cin = channels
    layers.append(nn.MaxPool2d(3, stride=2, padding=1) if pool == "deeplab" else nn.MaxPool2d(2, 2, ceil_mode=pool == "caffe"))
    return nn.Sequential(*layers)
