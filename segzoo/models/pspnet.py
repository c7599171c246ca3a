"""PSPNet: a dilated backbone and pyramid pooling.

Zhao et al., CVPR 2017, arXiv:1612.01105. Layers as in the authors' Caffe release.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, ConvBN
from segzoo.layers.dropout import Dropout
from segzoo.layers.norm import SingleValueBatchNorm
from segzoo.layers.pyramid_conv import FactorizedPyramidConv, PyramidConvBN
from segzoo.layers.pyramid_pooling import PyramidPooling
from segzoo.models._base import FCNHead, SegModel, caffe_conv_bn_names
from segzoo.registry import MODELS, Range
from segzoo.types import Logits

AUX_DROPOUT = 0.1


@MODELS.register
def pspnet(
    backbone: Backbone,
    num_classes: int,
    *,
    output_stride: Literal[8, 16, 32] = 8,
    first_block_dilation: Literal["full", "half"] = "full",
    bins: Annotated[tuple[int, ...], Range(1, 256)] = (1, 2, 3, 6),
    pool: Literal["avg", "max"] = "avg",
    reduce: bool = True,
    concat: Literal["descending", "ascending"] = "descending",
    dropout: Annotated[float, Range(0, 0.95)] = 0.1,
    aux_weight: Annotated[float, Range(0, 1000)] = 0.4,
    align_corners: bool = True,
) -> PSPNet:
    """PSPNet as released, on any backbone.

    The ablations of the paper's table 1 and the variants of semseg and mmsegmentation are settings.

    Args:
        backbone: a newly built backbone. Its strides are replaced by dilation here.
        num_classes: number of classes, K.
        output_stride: stride of the backbone's last feature map and of the logits.
        first_block_dilation: dilation of the first block of a dilated stage: that of its own stage (``full``) or of the stage
            before (``half``, mmseg).
        bins: grid sizes of the pyramid pooling. Empty is the dilated backbone without pyramid pooling.
        pool: ``avg`` or ``max``.
        reduce: whether a 1x1 convolution reduces each pooled map to 1 / len(bins) of the channels before concatenation.
        concat: order of the pooled maps after the backbone's: bins ``descending`` (release) or ``ascending`` (semseg, mmseg).
        dropout: dropout probability before the classifier.
        aux_weight: loss weight of the auxiliary head on c4. 0 removes the head.
        align_corners: for upsampling the pooled maps and the logits. True enlarges images to sides of 8k+1 (at output stride 8), which the
            release requires.
    """
    return PSPNet(
        backbone.set_output_stride_(output_stride, first_block_dilation),
        num_classes,
        bins=bins,
        pool=pool,
        reduce=reduce,
        descending=concat == "descending",
        dropout=dropout,
        aux_weight=aux_weight,
        align_corners=align_corners,
    )


class PSPNet(SegModel):
    """The network that ``pspnet`` builds.

    Channel counts follow the backbone: the paper's 512 is a quarter of c5. When training with one image per batch, the batch norm
    of the 1x1 grid does not update its statistics (``SingleValueBatchNorm``).

    Shapes:
        (N, 3, H, W) -> main (N, K, H/8, W/8) rounded up; in training one aux of (N, K, H/8, W/8). H and W are those of the enlarged image.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        bins: tuple[int, ...],
        pool: Literal["avg", "max"],
        reduce: bool,
        descending: bool,
        dropout: float,
        aux_weight: float,
        align_corners: bool,
    ):
        aux = [(FCNHead(backbone.channels["c4"], num_classes, AUX_DROPOUT), aux_weight)] if aux_weight else []
        super().__init__(backbone, num_classes, align_corners=align_corners, aux=aux)
        cin = backbone.channels["c5"]
        self.descending = descending
        self.pyramid = PyramidPooling(sorted(bins), pool)
        reduced = cin // len(bins) if bins and reduce else cin
        self.reduce = nn.ModuleList(_reduction(cin, reduced, b) if reduce else nn.Identity() for b in self.pyramid.bins)
        self.fuse = PyramidConvBN(cin, len(bins) * reduced, cin // 4, align_corners)
        self.dropout = Dropout(dropout)
        self.score = Classifier(cin // 4, num_classes)
        self.context: FactorizedPyramidConv | None = None  # replaces fuse in a network fused for inference

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the backbone's output stride."""
        x = self.prepare_input(x)
        stages = self.backbone.forward_stages(x)
        features = stages["c5"]
        pooled = [reduce(grid) for reduce, grid in zip(self.reduce, self.pyramid(features), strict=True)]
        if self.descending:
            pooled.reverse()
        if self.context is not None:
            return Logits(self.score(torch.relu(self.context(features, pooled))))
        main = self.score(self.dropout(self.fuse(features, pooled)))
        return Logits(main, self.aux_logits(stages["c4"]))

    def fuse_for_inference_(self) -> int:
        """Also convolve the pooled maps before upsampling.

        This halves the multiply-adds of the widest layer.
        """
        fused = super().fuse_for_inference_()
        if self.pyramid.bins:
            conv = self.fuse.get_submodule("conv")
            assert isinstance(conv, nn.Conv2d)
            self.context = FactorizedPyramidConv(conv, conv.in_channels - sum(self._pooled_channels()), self.align_corners)
            self.fuse = nn.Identity()  # type: ignore[assignment]
        return fused

    def external_head_names(self, layout: str) -> dict[str, str]:
        """Layer names of mmsegmentation's PSPHead and of the Caffe release.

        The files of the Caffe release hold no auxiliary head.
        """
        if layout == "mmseg":
            pools = {f"reduce.{i}": f"decode_head.psp_modules.{i}.1" for i in range(len(self.reduce))}
            main = {"fuse": "decode_head.bottleneck", "score": "decode_head.conv_seg"}
            return pools | main | {"aux.0.0": "auxiliary_head.convs.0", "aux.0.2": "auxiliary_head.conv_seg"}
        if layout == "caffe":
            pools = {f"reduce.{i}": f"conv5_3_pool{bins}_conv" for i, bins in enumerate(self.pyramid.bins)}
            return caffe_conv_bn_names(pools | {"fuse": "conv5_4"}) | {"score": "conv6"}
        return {}

    def convert_tensor(self, layout: str, name: str, tensor: Tensor, *, exported: bool = False) -> Tensor:
        """Reorder the inputs of ``fuse`` from or to another order of bins.

        The release concatenates them in descending order, mmsegmentation in ascending order. The tensor may be that of a network whose
        layers are all wider by the same integer factor.
        """
        if name != "fuse.conv.weight" or not len(self.reduce) or self.descending == (layout == "caffe"):
            return tensor
        factor, rest = divmod(tensor.shape[1], self.fuse.get_parameter("conv.weight").shape[1])
        if rest:
            return tensor  # of another shape, which is reported
        widths = [factor * width for width in self._pooled_channels()]
        if self.descending == exported:  # the order that the tensor has now
            widths.reverse()
        features, *pooled = tensor.split([tensor.shape[1] - sum(widths), *widths], 1)
        return torch.cat([features, *reversed(pooled)], 1)

    def _pooled_channels(self) -> list[int]:
        """Channels of the pooled maps that ``fuse`` reads, bins ascending.

        They are read from the layers, because pruning may have changed their widths.
        """
        reduced = [layer.out_channels for layer in self.reduce.modules() if isinstance(layer, nn.Conv2d)]
        return reduced or [self.fuse.get_parameter("conv.weight").shape[1] // (1 + len(self.pyramid.bins))] * len(self.pyramid.bins)


def _reduction(cin: int, cout: int, bins: int) -> ConvBN:
    return ConvBN(cin, cout, 1, norm=partial(SingleValueBatchNorm, role=f"PSPNet's {bins}x{bins} pyramid level"))
