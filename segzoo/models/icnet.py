"""ICNet: three resolutions in a cascade, the backbone on the lowest.

Zhao et al., ECCV 2018, arXiv:1704.08545. Layers as in the authors' released prototxt. Its backbone differs from the paper's
figure: it runs once, on the half-size image, and the feature map after the first block of c3 is downsampled by two.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from segzoo.backbones._base import Backbone
from segzoo.layers.conv import Classifier, ConvBN
from segzoo.layers.pyramid_pooling import PyramidPooling, upsample_pooled
from segzoo.layers.resize import resize
from segzoo.models._base import SegModel, caffe_conv_bn_names
from segzoo.registry import MODELS, Range
from segzoo.types import Logits

Weight = Annotated[float, Range(0, 1000)]
Branches = Literal[4, 24, 124]


@MODELS.register
def icnet(
    backbone: Backbone,
    num_classes: int,
    *,
    first_block_dilation: Literal["full", "half"] = "full",
    bins: Annotated[tuple[int, ...], Range(1, 256)] = (1, 2, 3, 6),
    guidance: tuple[Weight, Weight] = (0.16, 0.4),
    branches: Branches = 124,
    align_corners: bool = True,
) -> ICNet:
    """ICNet as released, on any backbone.

    The published network has a backbone of width 0.5.

    Args:
        backbone: a newly built backbone. Its c4 and c5 are dilated here. The release has the ``deep`` stem and strides in the 1x1.
        num_classes: number of classes, K.
        first_block_dilation: dilation of the first block of c4 and c5: that of its own stage (``full``) or of the stage before
            (``half``).
        bins: grid sizes of the pyramid pooling. Bins 3 and 6 of the release overlap at its 33x65 feature map; here pooling is
            adaptive.
        guidance: loss weights of the auxiliary logits at 1/16 and 1/8. The main logits at 1/4 have weight 1.
        branches: resolutions in use (table 3 of the paper): 124: all; 24: without full resolution; 4: only the lowest. With 24 and
            4 the auxiliary logits of that depth become the main logits, and the rest of the network is neither run nor trained.
        align_corners: for every resize inside, and for the logits. True enlarges images to sides of 32k+1, which the release requires.
    """
    backbone.set_output_stride_(8, first_block_dilation)
    return ICNet(backbone, num_classes, bins=bins, guidance=guidance, branches=branches, align_corners=align_corners)


class ICNet(SegModel):
    """The network that ``icnet`` builds.

    Channel counts follow c3, which has 256 in the half-width release. Every resize targets the size of the feature map that it is
    combined with.

    Attributes:
        branches: resolutions in use. A network trained with all three may be set to fewer, to measure what the others contribute.
        scores_first: classify before the last upsampling instead of after it. Both are linear, so they commute, and there are fewer
            classes than channels. ``fuse_for_inference_`` sets it, and training always does it. Evaluation keeps the release's
            order.

    Shapes:
        (N, 3, H, W) -> main (N, K, H/4, W/4) rounded up; in training aux (N, K, H/16, W/16) and (N, K, H/8, W/8). With branches 24
        the second of these is main, with 4 the first. H and W are those of the enlarged image.
    """

    loss_resolution = "logits"

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        bins: tuple[int, ...],
        guidance: tuple[float, float],
        branches: Branches,
        align_corners: bool,
    ):
        low, shared, deep = (backbone.channels[name] for name in ("c3", "c3_1", "c5"))
        fused = low // 2
        aux = [(Classifier(cin, num_classes), weight) for cin, weight in zip((low, fused), guidance, strict=True)]
        super().__init__(backbone, num_classes, align_corners=align_corners, aux=aux)
        self.corner_multiple = 4 * backbone.output_stride if align_corners else None  # the image and c3_1 are halved
        self.pyramid = PyramidPooling(bins)
        self.conv5_4 = ConvBN(deep, low, 1)
        self.high = nn.Sequential(
            ConvBN(3, low // 8, 3, stride=2), ConvBN(low // 8, low // 8, 3, stride=2), ConvBN(low // 8, low // 4, 3, stride=2)
        )
        self.cff24 = CascadeFusion(low, shared, fused)
        self.cff12 = CascadeFusion(fused, low // 4, fused)
        self.score = Classifier(fused, num_classes)
        self.branches = branches
        self.scores_first = False
        self._freeze_unused()

    def forward(self, x: Tensor) -> Logits:
        """Class scores at 1/4 of the image size.

        Comments give the scale of each feature map relative to the image.
        """
        x = self.prepare_input(x)
        shared = self.backbone.forward_stages(self._resize(x, _downsampled_size(x, 2)), last="c3_1")["c3_1"]  # 1/16
        self._check_low(x, shared)
        low = self.backbone.forward_stages(self._resize(shared, _downsampled_size(shared, 2)), first="after_c3_1")["c5"]  # 1/32
        low = reduce(add, (upsample_pooled(pooled, low.shape[-2:], self.align_corners) for pooled in self.pyramid(low)), low)
        low = self._resize(self.conv5_4(low), shared.shape[-2:])  # 1/16
        if self.branches == 4:
            return Logits(self.aux[0](low))
        middle = self._resize(self.cff24(low, shared), _downsampled_size(x, 8))  # 1/8
        if self.branches == 24:
            return Logits(self.aux[1](middle), self.aux_logits(low))
        fine = self.cff12(middle, self.high(x))  # 1/8
        if self.training or self.scores_first:
            main = self._resize(self.score(fine), _downsampled_size(x, 4))
        else:
            main = self.score(self._resize(fine, _downsampled_size(x, 4)))  # 1/4
        return Logits(main, self.aux_logits(low, middle))

    def fuse_for_inference_(self) -> int:
        """Also classify before the last upsampling."""
        self.scores_first = True
        return super().fuse_for_inference_()

    def external_head_names(self, layout: str) -> dict[str, str]:
        """Layer names of the Caffe release, whose files hold no auxiliary heads."""
        if layout != "caffe":
            return {}
        high = {f"high.{i}": f"conv{i + 1}_sub1" for i in range(3)}
        middle = {"cff24.low": "conv_sub4", "cff24.high": "conv3_1_sub2_proj"}
        fine = {"cff12.low": "conv_sub2", "cff12.high": "conv3_sub1_proj"}
        return caffe_conv_bn_names({"conv5_4": "conv5_4_k1"} | high | middle | fine) | {"score": "conv6_cls"}

    @property
    def unused_in_inference(self) -> tuple[str, ...]:
        """Auxiliary heads without main logits, and branches that are not run."""
        if self.branches == 124:
            return ("aux.",)
        return ("aux.0.", "high.", "cff12.", "score.") if self.branches == 24 else ("aux.1.", "high.", "cff24.", "cff12.", "score.")

    def _freeze_unused(self) -> None:
        """Freeze modules that the configured branches do not run.

        Otherwise the optimizer would hold parameters that never receive a gradient.
        """
        if self.branches == 124:
            return
        self.aux_weights = self.aux_weights[: 1 if self.branches == 24 else 0]
        for name, parameter in self.named_parameters():
            if name.startswith(self.unused_in_inference) and not name.startswith("aux.0."):  # which training uses
                parameter.requires_grad_(False)

    def _resize(self, x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        return resize(x, size, self.align_corners)

    def _check_low(self, x: Tensor, shared: Tensor) -> None:
        if self.training and _downsampled_size(shared, 2) == (1, 1):
            raise ValueError(
                f"ICNet in training received {x.shape[2]}x{x.shape[3]} (batch {x.shape[0]}), of which one pixel would be left in its "
                "low branch at 1/32. Batch norm needs more: enlarge the images to 64 or more pixels on one side, or call eval()."
            )


class CascadeFusion(nn.Module):
    """Cascade feature fusion (sec. 3.3).

    It combines a coarse and a fine feature map. The coarse map is already upsampled to the size of the fine one. After the
    convolutions both are added, then a ReLU follows.

    Args:
        low: channels of the coarse map, the input of a 3x3 convolution with dilation 2.
        high: channels of the fine map, the input of a 1x1 convolution.
        cout: output channels.

    Shapes:
        (N, low, H, W), (N, high, H, W) -> (N, cout, H, W)
    """

    def __init__(self, low: int, high: int, cout: int):
        super().__init__()
        self.low = ConvBN(low, cout, 3, dilation=2, relu=False)
        self.high = ConvBN(high, cout, 1, relu=False)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.relu(self.low(low) + self.high(high))


def _downsampled_size(x: Tensor, factor: int) -> tuple[int, int]:
    height, width = x.shape[-2:]
    return (height - 1) // factor + 1, (width - 1) // factor + 1
