"""PSPNet: a dilated backbone and pyramid pooling.

Zhao et al., CVPR 2017, arXiv:1612.01105. Layers as in the authors' Caffe release.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, ConvBN
from segzoo.layers.norm import SingleValueBatchNorm
from segzoo.layers.pyramid_conv import FactorizedPyramidConv
from segzoo.layers.pyramid_pooling import PyramidPooling, upsample_pooled
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
    bins: Annotated[tuple[int, ...], Range(1, None)] = (1, 2, 3, 6),
    pool: Literal["avg", "max"] = "avg",
    reduce: bool = True,
    concat: Literal["descending", "ascending"] = "descending",
    dropout: Annotated[float, Range(0, 0.95)] = 0.1,
    aux_weight: Annotated[float, Range(0, None)] = 0.4,
    align_corners: bool = True,
) -> PSPNet:
    """PSPNet as released; the ablations of the paper's table 1 and the forms of semseg and mmsegmentation are settings.

    Args:
        backbone: a fresh backbone; its strides become dilation here.
        num_classes: classes to score, K.
        output_stride: stride of the backbone's last map, and of the logits.
        first_block_dilation: dilation of the first block of a dilated stage: its own (``full``) or the one before (``half``, mmseg).
        bins: bins a side of each pooled map; none leaves the dilated backbone alone.
        pool: ``avg`` or ``max`` over each bin.
        reduce: whether a 1x1 convolution takes each pooled map to its share of the channels before they are joined.
        concat: order in which pooled maps follow the backbone's: bins ``descending`` (release) or ``ascending`` (semseg, mmseg).
        dropout: share of the channels' values dropped before the score, in training.
        aux_weight: loss weight of the auxiliary head at the end of c4; 0 leaves the head out.
        align_corners: for the pooled maps and for the logits; true goes with sizes 8k+1.
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
    """The network that ``pspnet`` builds. Channel numbers follow the backbone: 512 in the paper is a quarter of c5.

    In training with one image a batch, the 1x1 bin's batch norm keeps its statistics (``PooledBN``).

    Shapes:
        (N, 3, H, W) -> main (N, K, H/8, W/8); aux, in training, one map of (N, K, H/8, W/8)
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
        wide = backbone.channels["c5"]
        self.descending = descending
        self.pyramid = PyramidPooling(sorted(bins), pool)
        pooled = wide // len(bins) if bins and reduce else wide
        self.reduce = nn.ModuleList(_reduction(wide, pooled, b) if reduce else nn.Identity() for b in self.pyramid.bins)
        self.fuse = ConvBN(wide + len(bins) * pooled, wide // 4, 3)
        self.dropout = nn.Dropout(dropout)
        self.score = Classifier(wide // 4, num_classes)
        self.context: FactorizedPyramidConv | None = None  # takes the place of fuse in a lean network

    def forward(self, x: Tensor) -> Logits:
        """Class scores at the backbone's output stride; see the class for shapes."""
        self.check_input(x)
        maps = self.backbone.forward_stages(x)
        features = maps["c5"]
        pooled = [reduce(pool) for reduce, pool in zip(self.reduce, self.pyramid(features), strict=True)]
        if self.descending:
            pooled.reverse()
        if self.context is not None:
            return Logits(self.score(torch.relu(self.context(features, pooled))))
        grown = [upsample_pooled(context, features.shape[-2:], self.align_corners) for context in pooled]
        main = self.score(self.dropout(self.fuse(torch.cat([features, *grown], 1))))
        return Logits(main, self.aux_logits(maps["c4"]))

    def fuse_for_inference_(self) -> int:
        """Also convolves the pooled maps before they grow, which halves the work of the widest layer."""
        merged = super().fuse_for_inference_()
        if self.pyramid.bins:
            conv: Any = self.fuse.get_submodule("conv")
            # pruning may change all of them
            pooled = [layer.out_channels for layer in self.reduce.modules() if isinstance(layer, nn.Conv2d)]
            features = conv.in_channels - sum(pooled) if pooled else conv.in_channels // (1 + len(self.pyramid.bins))
            self.context = FactorizedPyramidConv(conv, features, self.align_corners)
            self.fuse = nn.Identity()  # type: ignore[assignment]
        return merged

    def external_head_names(self, layout: str) -> dict[str, str]:
        """The names of mmsegmentation's PSPHead and of the Caffe release, whose auxiliary head is not in its files."""
        if layout == "mmseg":
            pools = {f"reduce.{i}": f"decode_head.psp_modules.{i}.1" for i in range(len(self.reduce))}
            main = {"fuse": "decode_head.bottleneck", "score": "decode_head.conv_seg"}
            return pools | main | {"aux.0.0": "auxiliary_head.convs.0", "aux.0.2": "auxiliary_head.conv_seg"}
        if layout == "caffe":
            pools = {f"reduce.{i}": f"conv5_3_pool{bins}_conv" for i, bins in enumerate(self.pyramid.bins)}
            return caffe_conv_bn_names(pools | {"fuse": "conv5_4"}) | {"score": "conv6"}
        return {}

    def convert_tensor(self, layout: str, name: str, tensor: Tensor) -> Tensor:
        """The inputs of ``fuse`` in this network's order of bins: the release joins them descending, mmsegmentation ascending."""
        if name != "fuse.conv.weight" or not len(self.reduce) or self.descending == (layout == "caffe"):
            return tensor
        wide = self.backbone.channels["c5"]
        pooled = (tensor.shape[1] - wide) // len(self.reduce)
        features, *maps = tensor.split([wide] + [pooled] * len(self.reduce), 1)
        return torch.cat([features, *reversed(maps)], 1)


def _reduction(cin: int, cout: int, bins: int) -> ConvBN:
    return ConvBN(cin, cout, 1, norm=partial(SingleValueBatchNorm, role=f"PSPNet's {bins}x{bins} pyramid map"))
