"""Base of the losses that compare regions instead of single pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segzoo.device import constant
from segzoo.losses._base import MultiHeadLoss

Regions = Literal["image", "batch"]


@dataclass(frozen=True, kw_only=True)
class RegionLoss(MultiHeadLoss):
    """Mean over images of a weighted mean over their classes.

    A class is in an image if a pixel has its label. Pixels that predict an absent class count as errors of their true classes only. The
    weight of the labels is the number of images with a labeled class, so splitting a batch changes nothing.

    Args:
        per: ``image`` compares the regions of each image. ``batch`` joins the images of a forward pass on one rank, which steadies classes
            of few pixels, but makes the loss depend on how a batch is split: it becomes the mean over the parts.
    """

    per: Regions

    def _target_weight(self, target: Tensor, num_classes: int) -> Tensor:
        return (self._weights_of_present(target, num_classes) > 0).any(1).sum().float()

    def _weights_of_present(self, target: Tensor, num_classes: int) -> Tensor:
        """Weights of the classes in each image, 0 for absent classes.

        Shapes:
            (N, H, W) -> (N, K), or (1, K) for ``per=batch``
        """
        ids = torch.where(target == self.ignore, num_classes, target.long()).flatten(1)
        present = torch.zeros(len(ids), num_classes + 1, dtype=torch.bool, device=ids.device).scatter_(1, ids, True)[:, :-1]
        if self.per == "batch":
            present = present.any(0, keepdim=True)
        weights = constant(self.class_weights or (1.0,) * num_classes, torch.float32, ids.device)
        return present * weights


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over classes, 0 without any weight.

    Shapes:
        (N, K), (N, K) -> (N,)
    """
    total = weights.sum(1)
    return (losses * weights).sum(1) / torch.where(total > 0, total, 1.0)
