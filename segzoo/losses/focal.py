"""Focal loss: cross-entropy in which pixels that are already right count less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.device import constant
from segzoo.losses._base import ClassWeights, PixelLoss, Resolution, ResolutionSetting, explicit_weights
from segzoo.registry import LOSSES, Range
from segzoo.types import IGNORE


@LOSSES.register
def focal(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    model_resolution: Resolution = "label",
    *,
    resolution: ResolutionSetting = "model",
    gamma: Annotated[float, Range(0, 10)] = 2.0,
    class_weights: ClassWeights = None,
) -> FocalLoss:
    """Cross-entropy times a power of the error.

    The factor is (1 - p)^gamma, where p is the probability of the true class: Lin et al., ICCV 2017, arXiv:1708.02002, sec. 3.2. Two deviations suit segmentation: p is the softmax probability, as in every other
    loss and in prediction, where the paper has one sigmoid per class; and the sum is divided by the weight of the valid pixels, so
    splitting a batch changes nothing. The paper's alpha is ``class_weights``.

    Args:
        aux_weights, align_corners, ignore, model_resolution, resolution: as for ``cross_entropy``.
        gamma: how strongly pixels that are right are reduced; 0 is cross-entropy.
        class_weights: one weight per class, at least 0; ``auto``: median-frequency weights of the training set; None: all 1.
    """
    return FocalLoss(
        aux_weights=aux_weights,
        align_corners=align_corners,
        ignore=ignore,
        resolution=model_resolution if resolution == "model" else resolution,
        class_weights=explicit_weights(class_weights),
        gamma=gamma,
    )


@dataclass(frozen=True, kw_only=True)
class FocalLoss(PixelLoss):
    """Cross-entropy of pixels times a power of their error, see :func:`focal`."""

    gamma: float

    def _pixel_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, target.long(), ignore_index=self.ignore, reduction="none")
        errors = -torch.expm1(-losses)  # 1 - p
        losses = losses * errors.clamp(min=1e-8) ** self.gamma  # below gamma=1, the power has no derivative at 0
        if self.class_weights is None:
            return losses
        weights = constant(self.class_weights, losses.dtype, losses.device)
        return losses * weights[torch.where(target == self.ignore, 0, target).long()]
