"""Dice loss: overlap of predicted and labeled regions."""

from __future__ import annotations

from segzoo.losses._base import ClassWeights, Resolution, ResolutionSetting, explicit_weights
from segzoo.losses._region import Regions
from segzoo.losses.tversky import TverskyLoss
from segzoo.registry import LOSSES
from segzoo.types import IGNORE


@LOSSES.register
def dice(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    model_resolution: Resolution = "label",
    *,
    resolution: ResolutionSetting = "model",
    per: Regions = "image",
    class_weights: ClassWeights = None,
) -> TverskyLoss:
    """One minus the mean Dice coefficient of the classes.

    The coefficient is 2 TP / (2 TP + FP + FN), where the counts are sums of softmax probabilities over the valid pixels: Milletari et al.,
    3DV 2016, arXiv:1606.04797, sec. 3, but the denominator sums probabilities instead of their squares. Small and large regions count
    alike, so it suits rare classes. The loss is the mean over the classes in an image and over images, see
    ``segzoo.losses._region.RegionLoss``.

    Args:
        aux_weights, align_corners, ignore, model_resolution, resolution: as for ``cross_entropy``.
        per: ``image``: splitting a batch changes nothing; ``batch``: one coefficient over all images of a forward pass.
        class_weights: weights of the mean over classes, at least 0; ``auto``: median-frequency weights of the training set; None: all 1.
    """
    return TverskyLoss(
        aux_weights=aux_weights,
        align_corners=align_corners,
        ignore=ignore,
        resolution=model_resolution if resolution == "model" else resolution,
        class_weights=explicit_weights(class_weights),
        per=per,
        alpha=0.5,
        beta=0.5,
    )
