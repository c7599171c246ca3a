"""Lovász-softmax loss: a surrogate of the IoU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from segzoo.losses._base import ClassWeights, Resolution, ResolutionSetting, explicit_weights
from segzoo.losses._chunked import ChunkedUpsampleLoss
from segzoo.losses._region import RegionLoss, Regions, weighted_mean
from segzoo.registry import LOSSES
from segzoo.types import IGNORE


@LOSSES.register
def lovasz(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    model_resolution: Resolution = "label",
    *,
    resolution: ResolutionSetting = "model",
    per: Regions = "image",
    class_weights: ClassWeights = None,
) -> LovaszLoss:
    """Lovász extension of one minus the IoU of the classes.

    Berman et al., CVPR 2018, arXiv:1705.08790, sec. 3, over the classes in an image (``classes=present`` in the authors' code). The paper
    fine-tunes with it; from scratch, add it to cross-entropy. At label resolution, the upsampled logits of one image are in memory at a
    time, or of the whole batch with ``per=batch``. The loss is the mean over the classes in an image and over images, see
    ``segzoo.losses._region.RegionLoss``.

    Args:
        aux_weights, align_corners, ignore, model_resolution, resolution: as for ``cross_entropy``.
        per: ``image``: splitting a batch changes nothing; ``batch``: one IoU over all images of a forward pass.
        class_weights: weights of the mean over classes, at least 0; ``auto``: median-frequency weights of the training set; None: all 1.
    """
    return LovaszLoss(
        aux_weights=aux_weights,
        align_corners=align_corners,
        ignore=ignore,
        resolution=model_resolution if resolution == "model" else resolution,
        class_weights=explicit_weights(class_weights),
        per=per,
    )


@dataclass(frozen=True, kw_only=True)
class LovaszLoss(RegionLoss):
    """Errors of pixels weighted by their share in the IoU, see :func:`lovasz`."""

    def _loss_sum(self, head: Tensor, target: Tensor) -> Tensor:
        weights = self._weights_of_present(target, head.shape[1])
        parts = zip(*(x.split(len(x) // len(weights)) for x in (head, target)), weights, strict=True)
        return torch.stack([self._region_loss(*part) for part in parts]).sum()

    def _region_loss(self, head: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Loss of one image, or of all images of a batch together.

        Shapes:
            head (n, K, h, w), target (n, h, w) or (n, H, W), weights (K,) -> scalar
        """
        loss = partial(self._weighted_loss, weights=weights)
        if head.shape[2:] == target.shape[1:]:
            return loss(head, target)
        return ChunkedUpsampleLoss.apply(head, target, loss, self.align_corners, True)  # type: ignore[return-value]

    def _weighted_loss(self, logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        probabilities, valid = logits.softmax(1), target != self.ignore
        losses = [0 * probability.sum() for probability in probabilities[0]]  # stays connected if no class is present
        for train_id in weights.nonzero().flatten().tolist():
            inside, probability = (target == train_id) & valid, probabilities[:, train_id]
            errors = torch.where(valid, torch.where(inside, 1 - probability, probability), 0)
            losses[train_id] = (errors * _jaccard_gradient(errors, inside, valid)).sum()
        return weighted_mean(torch.stack(losses)[None], weights[None])[0]


@torch.no_grad()
def _jaccard_gradient(errors: Tensor, inside: Tensor, valid: Tensor) -> Tensor:
    """Gradient of the Lovász extension, algorithm 1 of the paper.

    Pixels are sorted by error, largest first and ignored ones last. The gradient of a pixel is the increase of 1 - IoU when it becomes
    wrong after all pixels before it.
    """
    order = torch.where(valid, errors, -1).flatten().argsort(descending=True, stable=True)
    labeled = inside.flatten()[order]
    misses, false_alarms = labeled.cumsum(0), (~labeled).cumsum(0)
    size = misses[-1]
    jaccard = 1 - (size - misses).double() / (size + false_alarms)  # increases are as small as 1 / pixels
    gradient = jaccard.diff(prepend=jaccard.new_zeros(1)).to(errors.dtype)
    return torch.empty_like(gradient).scatter_(0, order, gradient).view_as(errors)
