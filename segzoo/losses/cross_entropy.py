"""Pixel-wise cross-entropy, the loss of all five papers."""

from __future__ import annotations

from typing import Annotated

from segzoo.losses._base import ClassWeights, PixelLoss, Resolution, ResolutionSetting, explicit_weights
from segzoo.registry import LOSSES, Range
from segzoo.types import IGNORE


@LOSSES.register
def cross_entropy(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    model_resolution: Resolution = "label",
    *,
    resolution: ResolutionSetting = "model",
    class_weights: ClassWeights = None,
    label_smoothing: Annotated[float, Range(0, 0.99)] = 0.0,
) -> PixelLoss:
    """Mean cross-entropy over valid pixels, plus the weighted auxiliary losses.

    FCN and the public PSPNet code upsample the logits to the label (``resolution=label``). DeepLab v1 and ICNet downsample the
    label to the logits (``resolution=logits``), ICNet at 1/4, 1/8 and 1/16. Mean, class weights and smoothing are those of
    ``torch.nn.functional.cross_entropy``.

    Args:
        aux_weights: weights of the auxiliary heads; the main head has 1.
        align_corners: how the model's logits are aligned with the image.
        ignore: the train id to leave out.
        model_resolution: resolution of the loss in the model's paper.
        resolution: compute the loss at the label's size, at the logits' size, or as in the model's paper.
        class_weights: one weight per class, at least 0; ``auto``: median-frequency weights of the training set; None: all 1.
        label_smoothing: fraction of the target that is spread evenly over all classes, 0 to 1.
    """
    return PixelLoss(
        aux_weights=aux_weights,
        align_corners=align_corners,
        ignore=ignore,
        resolution=model_resolution if resolution == "model" else resolution,
        class_weights=explicit_weights(class_weights),
        label_smoothing=label_smoothing,
    )
