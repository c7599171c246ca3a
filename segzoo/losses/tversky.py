"""Tversky loss: overlap of regions with a weight per kind of error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from segzoo.losses._base import ClassWeights, Resolution, ResolutionSetting, explicit_weights
from segzoo.losses._chunked import ChunkedUpsampleSums
from segzoo.losses._region import RegionLoss, Regions, weighted_mean
from segzoo.registry import LOSSES, ConfigError, Range
from segzoo.types import IGNORE

EPSILON = 1e-7  # of a denominator


@LOSSES.register
def tversky(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    model_resolution: Resolution = "label",
    *,
    resolution: ResolutionSetting = "model",
    alpha: Annotated[float, Range(0, 100)] = 0.3,
    beta: Annotated[float, Range(0, 100)] = 0.7,
    per: Regions = "image",
    class_weights: ClassWeights = None,
) -> TverskyLoss:
    """One minus the mean Tversky index of the classes.

    The index is TP / (TP + alpha FP + beta FN), where the counts are sums of softmax probabilities over the valid pixels: Salehi et al.,
    2017, arXiv:1706.05721, sec. 2.2, where it raises the recall of small lesions. The loss is the mean over the classes in an image and over images, see
    ``segzoo.losses._region.RegionLoss``.

    Args:
        aux_weights, align_corners, ignore, model_resolution, resolution: as for ``cross_entropy``.
        alpha: weight of false positives.
        beta: weight of false negatives. Above ``alpha``, misses cost more than false alarms.
        per: ``image``: splitting a batch changes nothing; ``batch``: one index over all images of a forward pass.
        class_weights: weights of the mean over classes, at least 0; ``auto``: median-frequency weights of the training set; None: all 1.

    Raises:
        ConfigError: no error would count.
    """
    if alpha == beta == 0:
        raise ConfigError("loss.alpha and loss.beta are both 0, so no error counts and there is no loss. Set one above 0.")
    return TverskyLoss(
        aux_weights=aux_weights,
        align_corners=align_corners,
        ignore=ignore,
        resolution=model_resolution if resolution == "model" else resolution,
        class_weights=explicit_weights(class_weights),
        per=per,
        alpha=alpha,
        beta=beta,
    )


@dataclass(frozen=True, kw_only=True)
class TverskyLoss(RegionLoss):
    """Weighted ratio of errors to region size, see :func:`tversky`."""

    alpha: float
    beta: float

    def _loss_sum(self, head: Tensor, target: Tensor) -> Tensor:
        if head.shape[2:] == target.shape[1:]:
            counts = self._soft_counts(head, target)
        else:
            counts: Tensor = ChunkedUpsampleSums.apply(head, target, self._soft_counts, self.align_corners)  # type: ignore[assignment]
        if self.per == "batch":
            counts = counts.sum(0, keepdim=True)
        hits, false_positives, false_negatives = counts.unbind(1)
        errors = self.alpha * false_positives + self.beta * false_negatives
        losses = errors / (hits + errors).clamp(min=EPSILON)  # (N, K); 1 - index, without its cancellation
        return weighted_mean(losses, self._weights_of_present(target, head.shape[1])).sum()

    def _soft_counts(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sums of the probabilities of hits, false positives and false negatives.

        Shapes:
            logits (N, K, h, w), target (N, h, w) -> (N, 3, K)
        """
        probabilities, ids = logits.softmax(1), torch.arange(logits.shape[1], device=logits.device)
        valid = (target != self.ignore)[:, None]
        inside = (target[:, None] == ids.view(1, -1, 1, 1)) & valid
        hits, false_positives = probabilities * inside, probabilities * (valid & ~inside)
        false_negatives = (1 - probabilities) * inside
        return torch.stack([pixels.flatten(2).sum(2) for pixels in (hits, false_positives, false_negatives)], 1)
