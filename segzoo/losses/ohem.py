"""Online hard example mining: cross-entropy of the hard pixels only.

It suits data in which easy pixels dominate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from segzoo.losses._base import ClassWeights, PixelLoss, Resolution, ResolutionSetting, explicit_weights
from segzoo.registry import LOSSES, ConfigError, Range
from segzoo.types import IGNORE


@LOSSES.register
def ohem(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    model_resolution: Resolution = "label",
    *,
    resolution: ResolutionSetting = "model",
    threshold: Annotated[float, Range(0, 1)] = 0.7,
    min_kept: Annotated[float, Range(0, 1)] = 0.0625,
    class_weights: ClassWeights = None,
) -> HardPixelLoss:
    """Cross-entropy of pixels whose true class has a probability below ``threshold``.

    Online bootstrapping of Wu et al., 2016, arXiv:1604.04339. Two deviations make it independent of how a batch is split:
    ``min_kept`` is a fraction of each image's valid pixels rather than a number per batch, and the sum is divided by the weight of
    all valid pixels rather than of the kept ones. So the loss falls as pixels become easy; a larger learning rate compensates for
    this.

    Args:
        aux_weights: weights of the auxiliary heads; the main head has 1. Each head selects its own pixels.
        align_corners: how the model's logits are aligned with the image.
        ignore: the train id to leave out.
        model_resolution: resolution of the loss in the model's paper.
        resolution: compute the loss at the label's size, at the logits' size, or as in the model's paper.
        threshold: probability of the true class above which a pixel is easy; 1 keeps all pixels.
        min_kept: smallest fraction of each image's valid pixels to keep, hardest first.
        class_weights: as for ``cross_entropy``. They do not change which pixels are hard.

    Raises:
        ConfigError: no pixel would be kept.
    """
    if threshold == min_kept == 0:
        raise ConfigError("loss.threshold and loss.min_kept are both 0, so no pixel is kept and there is no loss. Set one above 0.")
    return HardPixelLoss(
        aux_weights=aux_weights,
        align_corners=align_corners,
        ignore=ignore,
        resolution=model_resolution if resolution == "model" else resolution,
        class_weights=explicit_weights(class_weights),
        threshold=threshold,
        min_kept=min_kept,
    )


@dataclass(frozen=True, kw_only=True)
class HardPixelLoss(PixelLoss):
    """Cross-entropy of the hard pixels, see :func:`ohem`."""

    threshold: float
    min_kept: float

    def _select_pixels(self, head: Tensor, target: Tensor) -> Tensor:
        """Set the labels of easy pixels to ``ignore``.

        Shapes:
            target (N, H, W) -> (N, H, W)
        """
        valid = target != self.ignore
        hardness = torch.where(valid, self._unweighted_losses(head, target), -1.0)
        min_hardness = hardness.new_full((len(target), 1, 1), -math.log(self.threshold) if self.threshold > 0 else math.inf)
        max_kept = math.ceil(self.min_kept * target[0].numel())  # if every pixel of an image is valid
        if max_kept > 0:
            hardest = hardness.flatten(1).topk(max_kept).values
            num_kept = (valid.flatten(1).sum(1, keepdim=True).double() * self.min_kept).ceil().long()
            kept_hardness = hardest.gather(1, (num_kept - 1).clamp(0, max_kept - 1)).view(-1, 1, 1)
            min_hardness = torch.minimum(min_hardness, kept_hardness)
        return torch.where(valid & (hardness >= min_hardness), target, self.ignore)
