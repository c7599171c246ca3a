"""What the losses share: heads and their factors, labels at the right size, and a mean over valid pixels that survives splitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.losses._chunked import ChunkedUpsampleLoss, chunked_pixel_loss
from segzoo.types import Logits

Resolution = Literal["label", "logits"]
Where = Literal["model", "label", "logits"]  # as a setting: ``model`` leaves it to the model's paper


class PixelLoss:
    """Cross-entropy of every head, averaged over valid pixels: ``sum_h factor_h * (weighted sum over pixels)_h / weight_h``.

    ``weight_h`` is the summed class weight of the valid pixels of head h, known from the labels alone. Whoever splits a batch over
    accumulated parts or ranks passes the weight of the whole, and the parts' losses and gradients add up to the whole's. If that weight
    is 0, so is the loss, and it stays connected to the logits.

    Args:
        aux_weights: factors of ``Logits.aux``; the main head's is 1.
        align_corners: how the model's logits relate to the image.
        ignore: the train id that counts nowhere.
        at: ``label``: logits grow bilinearly to the label's size; ``logits``: labels shrink by nearest sampling.
        class_weights: a weight for each class, or None.
        label_smoothing: share of the target spread evenly over all classes, 0 to 1.
    """

    def __init__(
        self,
        aux_weights: tuple[float, ...],
        align_corners: bool,
        ignore: int,
        resolution: Resolution,
        class_weights: tuple[float, ...] | None,
        label_smoothing: float,
    ):
        self.factors, self.align_corners, self.ignore = (1.0, *aux_weights), align_corners, ignore
        self.resolution, self.class_weights, self.label_smoothing = resolution, class_weights, label_smoothing

    def __call__(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss, a scalar in fp32, also under autocast.

        Args:
            logits: main (N, K, h, w), and aux with as many heads as there are factors, or none (evaluation).
            label: (N, H, W) whole numbers of train ids.
            weight: (heads,) divisors instead of this batch's own.

        Raises:
            ValueError: heads, class weights or sizes do not match; on a CPU, a label is neither a class nor ``ignore``. On CUDA that
                check would halt the device, so the loader makes it before the upload.
        """
        return self.total(self.terms(logits, label, weight))

    def total(self, terms: Tensor) -> Tensor:
        """The heads' means (heads,) times their factors, summed."""
        return (terms * terms.new_tensor(self.factors[: len(terms)])).sum()

    def terms(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """The mean loss of each head (heads,), main first, before its factor."""
        heads = self._checked(logits, label)
        weight = self.weight(label, logits) if weight is None else weight
        with torch.autocast(label.device.type, enabled=False):
            sums = [self._sum(head.float(), self._target(head, label)) for head in heads]
            return torch.stack(sums) / torch.where(weight > 0, weight, 1.0)

    @torch.no_grad()
    def weight(self, label: Tensor, logits: Logits) -> Tensor:
        """Summed weight of the valid pixels of each head (heads,), fp32. Of the logits, only number and sizes of the maps are used."""
        heads = (logits.main, *logits.aux)
        if self.resolution == "label":
            return self._valid_weight(label).repeat(len(heads))
        return torch.stack([self._valid_weight(self._target(head, label)) for head in heads])

    def _valid_weight(self, target: Tensor) -> Tensor:
        valid = target != self.ignore
        if self.class_weights is None:
            return valid.sum().float()
        weights = torch.tensor(self.class_weights, device=target.device)
        return (weights[torch.where(valid, target, 0).long()] * valid).sum()

    def _target(self, head: Tensor, label: Tensor) -> Tensor:
        if self.resolution == "label":
            return label
        return downsample_labels(label, head.shape[2:], self.align_corners)

    def _sum(self, head: Tensor, target: Tensor) -> Tensor:
        """Weighted sum of the pixels' losses: head (N, K, h, w) fp32, target (N, h, w) or (N, H, W)."""
        target = self._select_pixels(head, target)
        if head.shape[2:] == target.shape[1:]:
            return self._score(head, target).sum()
        return ChunkedUpsampleLoss.apply(head, target, self._score, self.align_corners)  # type: ignore[return-value]

    def _select_pixels(self, head: Tensor, target: Tensor) -> Tensor:
        """The labels of the pixels that are to be learned; the others become ignore. Here: all."""
        return target

    def _score(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted loss of each pixel (N, h, w); reduced outside, because on CUDA the reducing kernel is not deterministic."""
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        return F.cross_entropy(
            logits, target.long(), weights, ignore_index=self.ignore, reduction="none", label_smoothing=self.label_smoothing
        )

    def _plain_scores(self, head: Tensor, target: Tensor) -> Tensor:
        """Unweighted cross-entropy of each pixel of the target, 0 where ignored; without gradients."""

        def score(logits: Tensor, part: Tensor) -> Tensor:
            return F.cross_entropy(logits, part.long(), ignore_index=self.ignore, reduction="none")

        with torch.no_grad():
            same = head.shape[2:] == target.shape[1:]
            return score(head, target) if same else chunked_pixel_loss(head, target, score, self.align_corners)

    def _checked(self, logits: Logits, label: Tensor) -> tuple[Tensor, ...]:
        """The heads, after rejecting what cannot be scored."""
        classes = logits.main.shape[1]
        if logits.aux and len(logits.aux) != len(self.factors) - 1:
            raise ValueError(
                f"the loss has {len(self.factors) - 1} auxiliary weights, the model answers {len(logits.aux)} auxiliary logits"
            )
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"loss.class_weights has {len(self.class_weights)} numbers, the model {classes} classes; give one for each"
            )
        if label.ndim != 3 or label.shape[0] != logits.main.shape[0]:
            raise ValueError(f"wanted labels (N, H, W) for logits {tuple(logits.main.shape)}, got {tuple(label.shape)}")
        if label.device.type == "cpu":
            wrong = label[((label >= classes) | (label < 0)) & (label != self.ignore)].unique().tolist()
            if wrong:
                raise ValueError(
                    f"labels hold {wrong[:8]}; wanted 0..{classes - 1}, or {self.ignore} to ignore. Map them in data.label_map"
                )
        return (logits.main, *logits.aux)


def downsample_labels(label: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Labels at the size of logits by picking the pixel under each logit: (N, H, W) -> (N, h, w). Ids are never blended.

    With aligned corners logit i sits on pixel i * (H - 1) / (h - 1): 0, 8, 16, ... where that is whole. Otherwise it sits in the middle
    of its cell, as in ``nearest-exact`` interpolation.
    """
    rows, columns = (_picks(large, small, align_corners) for large, small in zip(label.shape[1:], size, strict=True))
    return label[:, rows.to(label.device)][:, :, columns.to(label.device)]


def _picks(large: int, small: int, align_corners: bool) -> Tensor:
    index = torch.arange(small)
    if align_corners and small > 1:
        return (2 * index * (large - 1) + small - 1) // (2 * (small - 1))  # rounded in whole numbers
    return (2 * index + 1) * large // (2 * small)
