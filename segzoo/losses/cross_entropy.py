"""Pixel-wise cross-entropy: the loss of all five papers."""

from __future__ import annotations

from typing import Annotated

from segzoo.losses._base import PixelLoss, Resolution, Where
from segzoo.registry import LOSSES, Range
from segzoo.types import IGNORE


@LOSSES.register
def cross_entropy(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    own: Resolution = "label",
    *,
    resolution: Where = "model",
    class_weights: Annotated[tuple[float, ...], Range(0, None)] | None = None,
    label_smoothing: Annotated[float, Range(0, 1)] = 0.0,
) -> PixelLoss:
    """Mean cross-entropy over valid pixels, plus each auxiliary head's times its weight.

    FCN and the public PSPNet code grow the logits to the label (``at=label``); DeepLab v1 and ICNet shrink the label to the logits
    (``at=logits``), ICNet at 1/4, 1/8 and 1/16. Mean, class weights and smoothing are those of ``torch.nn.functional.cross_entropy``.

    Args:
        aux_weights: factors of the auxiliary heads; the main head's is 1.
        align_corners: how the model's logits relate to the image.
        ignore: the train id that counts nowhere.
        own: where the model's paper takes the loss.
        at: where logits and labels meet: at the label's size, at the logits', or where the model's paper has it.
        class_weights: one weight a class, at least 0; None: all 1.
        label_smoothing: share of the target spread evenly over all classes, 0 to 1.
    """
    return PixelLoss(
        aux_weights, align_corners, ignore, own if resolution == "model" else resolution, class_weights, label_smoothing
    )
