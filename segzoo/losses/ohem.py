"""Cross-entropy of the hard pixels only, for data where easy pixels drown the rest."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from segzoo.losses._base import PixelLoss, Resolution, Where
from segzoo.registry import LOSSES, Range
from segzoo.types import IGNORE


@LOSSES.register
def ohem(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    own: Resolution = "label",
    *,
    resolution: Where = "model",
    threshold: Annotated[float, Range(0, 1)] = 0.7,
    min_kept: Annotated[float, Range(0, 1)] = 0.0625,
    class_weights: Annotated[tuple[float, ...], Range(0, None)] | None = None,
) -> HardPixelLoss:
    """Cross-entropy of the pixels whose true class has a probability below ``threshold``.

    Online bootstrapping of Wu et al., 2016, arXiv:1604.04339. Two deviations make it independent of how a batch is split: ``min_kept`` is
    a share of each image's valid pixels, not a number per batch, and the sum is divided by the weight of all valid pixels, not of the
    kept ones. So the loss falls as pixels become easy; a larger learning rate makes up for it.

    Args:
        aux_weights: factors of the auxiliary heads; the main head's is 1. Each head chooses its own pixels.
        align_corners: how the model's logits relate to the image.
        ignore: the train id that counts nowhere.
        own: where the model's paper takes the loss.
        at: where logits and labels meet: at the label's size, at the logits', or where the model's paper has it.
        threshold: probability above which a pixel counts as easy; 1 keeps all.
        min_kept: share of an image's valid pixels that is kept at least, the hardest first.
        class_weights: one weight a class, at least 0; None: all 1. They do not change which pixels are hard.
    """
    return HardPixelLoss(
        aux_weights, align_corners, ignore, own if resolution == "model" else resolution, class_weights, threshold, min_kept
    )


class HardPixelLoss(PixelLoss):
    """See :func:`ohem`."""

    def __init__(
        self,
        aux_weights: tuple[float, ...],
        align_corners: bool,
        ignore: int,
        resolution: Resolution,
        class_weights: tuple[float, ...] | None,
        threshold: float,
        min_kept: float,
    ):
        super().__init__(aux_weights, align_corners, ignore, resolution, class_weights, label_smoothing=0.0)
        self.threshold, self.min_kept = threshold, min_kept

    def _select_pixels(self, head: Tensor, target: Tensor) -> Tensor:
        """The target with easy pixels set to ignore: (N, H, W) -> (N, H, W)."""
        valid = target != self.ignore
        hardness = torch.where(valid, self._plain_scores(head, target), -1.0)
        bar = hardness.new_full((len(target), 1, 1), -math.log(self.threshold) if self.threshold > 0 else math.inf)
        most = math.ceil(self.min_kept * target[0].numel())  # no image keeps more of its valid pixels by right
        if most > 0:
            hardest = hardness.flatten(1).topk(most).values
            kept = (valid.flatten(1).sum(1, keepdim=True).double() * self.min_kept).ceil().long()
            bar = torch.minimum(bar, hardest.gather(1, (kept - 1).clamp(0, most - 1)).view(-1, 1, 1))
        return torch.where(valid & (hardness >= bar), target, self.ignore)
