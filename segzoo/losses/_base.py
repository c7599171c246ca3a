"""Base of all losses over the heads of a model, and cross-entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segzoo.device import constant
from segzoo.losses._chunked import ChunkedUpsampleLoss, chunked_pixel_loss
from segzoo.registry import ConfigError, Range
from segzoo.types import Logits

Resolution = Literal["label", "logits"]
ResolutionSetting = Literal["model", "label", "logits"]  # ``model``: as in the model's paper
ClassWeights = Annotated[tuple[float, ...], Range(0, 1e6)] | Literal["auto"] | None


def explicit_weights(class_weights: ClassWeights) -> tuple[float, ...] | None:
    """Reject weights that have not been computed from labels yet."""
    if isinstance(class_weights, str):
        raise ConfigError(
            f"loss.class_weights={class_weights} needs the labels of a training set. Pass the weights that "
            "segzoo.data.balance.class_weights.automatic_class_weights computes from them."
        )
    return class_weights


@dataclass(frozen=True, kw_only=True)
class MultiHeadLoss(ABC):
    """Loss over all heads of a model, divided by label weights.

    The loss is ``sum_h head_weight_h * loss_sum_h / weight_h``. The weight depends on the labels alone and is a sum over images. If a
    batch is split over accumulated batches or ranks, pass the weight of the whole batch; losses and gradients of the parts then add up to
    those of the whole. If that weight is 0, the loss is 0 and stays connected to the logits.

    Args:
        aux_weights: weights of the auxiliary heads; the main head has 1.
        align_corners: how the model's logits are aligned with the image.
        ignore: the train id to leave out.
        resolution: ``label`` upsamples logits bilinearly to the label's size; ``logits`` downsamples labels by nearest sampling.
        class_weights: a weight for each class, or None.
    """

    aux_weights: tuple[float, ...]
    align_corners: bool
    ignore: int
    resolution: Resolution
    class_weights: tuple[float, ...] | None = None

    @property
    def head_weights(self) -> tuple[float, ...]:
        """Weights of all heads, main first."""
        return (1.0, *self.aux_weights)

    @property
    def parts(self) -> tuple[tuple[float, MultiHeadLoss]]:
        """This loss with weight 1."""
        return ((1.0, self),)

    def __call__(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss, a scalar in fp32 even under autocast.

        Args:
            logits: main (N, K, h, w), and as many auxiliary logits as ``aux_weights``, or none (in evaluation).
            label: (N, H, W) integer train ids.
            weight: (heads,) divisors to use instead of this batch's own.

        Raises:
            ValueError: heads, class weights or sizes do not match; on a CPU, a label is neither a class nor ``ignore``. On CUDA
                that check would synchronize the device, so the loader checks labels before the transfer.
        """
        return self.total(self.terms(logits, label, weight))

    def total(self, terms: Tensor) -> Tensor:
        """Sum the losses of all heads (heads,), times their weights."""
        return (terms * constant(self.head_weights[: len(terms)], terms.dtype, terms.device)).sum()

    def terms(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean loss of each head (heads,), main first, before its weight."""
        heads = self._check_inputs(logits, label)
        weight = self.weight(label, logits) if weight is None else weight
        with torch.autocast(label.device.type, enabled=False):
            sums = [self._loss_sum(fp32_or_wider(head), self._target(head, label)) for head in heads]
            # label smoothing gives pixels of weight 0 a loss, of which none may be left if all are
            return torch.where(weight > 0, torch.stack(sums) / torch.where(weight > 0, weight, 1.0), 0.0)

    @torch.no_grad()
    def weight(self, label: Tensor, logits: Logits) -> Tensor:
        """Weight of the labels of each head (heads,), fp32.

        Only the number and sizes of the logits are used.
        """
        heads, num_classes = (logits.main, *logits.aux), logits.main.shape[1]
        if self.resolution == "label":
            return self._target_weight(label, num_classes).repeat(len(heads))
        return torch.stack([self._target_weight(self._target(head, label), num_classes) for head in heads])

    @abstractmethod
    def _loss_sum(self, head: Tensor, target: Tensor) -> Tensor:
        """Weighted sum of the losses of a head.

        Shapes:
            head (N, K, h, w) fp32, target (N, h, w) or (N, H, W) -> scalar
        """

    @abstractmethod
    def _target_weight(self, target: Tensor, num_classes: int) -> Tensor:
        """Weight of the labels of a head, the divisor of its sum."""

    def _target(self, head: Tensor, label: Tensor) -> Tensor:
        if self.resolution == "label":
            return label
        return downsample_labels(label, head.shape[2:], self.align_corners)

    def _check_inputs(self, logits: Logits, label: Tensor) -> tuple[Tensor, ...]:
        """Return all heads, or raise ValueError if the inputs do not match."""
        num_classes = logits.main.shape[1]
        if logits.aux and len(logits.aux) != len(self.aux_weights):
            raise ValueError(
                f"the loss has {len(self.aux_weights)} auxiliary weights, but the model returns {len(logits.aux)} auxiliary logits"
            )
        if self.class_weights is not None and len(self.class_weights) != num_classes:
            raise ValueError(
                f"loss.class_weights has {len(self.class_weights)} values, but the model has {num_classes} classes; set one per class"
            )
        if label.ndim != 3 or label.shape[0] != logits.main.shape[0]:
            raise ValueError(f"expected labels (N, H, W) for logits {tuple(logits.main.shape)}, got {tuple(label.shape)}")
        if label.device.type == "cpu":
            invalid = label[((label >= num_classes) | (label < 0)) & (label != self.ignore)].unique().tolist()
            if invalid:
                raise ValueError(
                    f"labels contain {invalid[:8]}; expected 0..{num_classes - 1}, or {self.ignore} to ignore. "
                    "Map them in data.label_map."
                )
        return (logits.main, *logits.aux)


@dataclass(frozen=True, kw_only=True)
class PixelLoss(MultiHeadLoss):
    """Cross-entropy of every head, averaged over valid pixels.

    The weight of the labels is the summed class weight of the valid pixels.

    Args:
        label_smoothing: fraction of the target that is spread evenly over all classes, 0 to 1.
    """

    label_smoothing: float = 0.0

    def _target_weight(self, target: Tensor, num_classes: int) -> Tensor:
        valid = target != self.ignore
        if self.class_weights is None:
            return valid.sum().float()
        weights = constant(self.class_weights, torch.float32, target.device)
        return (weights[torch.where(valid, target, 0).long()] * valid).sum()

    def _loss_sum(self, head: Tensor, target: Tensor) -> Tensor:
        target = self._select_pixels(head, target)
        if head.shape[2:] == target.shape[1:]:
            return self._pixel_losses(head, target).sum()
        return ChunkedUpsampleLoss.apply(head, target, self._pixel_losses, self.align_corners)  # type: ignore[return-value]

    def _select_pixels(self, head: Tensor, target: Tensor) -> Tensor:
        """Set the labels of pixels that do not contribute to ``ignore``.

        By default all pixels contribute.
        """
        return target

    def _pixel_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted loss of each pixel (N, h, w).

        The caller reduces it, because the reducing CUDA kernel is not deterministic.
        """
        weights = None if self.class_weights is None else constant(self.class_weights, logits.dtype, logits.device)
        return F.cross_entropy(
            logits, target.long(), weights, ignore_index=self.ignore, reduction="none", label_smoothing=self.label_smoothing
        )

    def _unweighted_losses(self, head: Tensor, target: Tensor) -> Tensor:
        """Unweighted cross-entropy of each pixel of the target, without gradients.

        It is 0 at ignored pixels.
        """

        def pixel_losses(logits: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(logits, label.long(), ignore_index=self.ignore, reduction="none")

        with torch.no_grad():
            same_size = head.shape[2:] == target.shape[1:]
            return pixel_losses(head, target) if same_size else chunked_pixel_loss(head, target, pixel_losses, self.align_corners)


def fp32_or_wider(head: Tensor) -> Tensor:
    """Convert logits of a narrower type to fp32."""
    return head.to(torch.promote_types(head.dtype, torch.float32))


def downsample_labels(label: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Downsample labels by picking the pixel under each logit.

    Ids are never blended. With aligned corners, logit i lies on pixel i * (H - 1) / (h - 1): 0, 8, 16, ... where that is an
    integer. Otherwise it lies in the center of its cell, as in ``nearest-exact`` interpolation.

    Shapes:
        (N, H, W) -> (N, h, w)
    """
    rows, columns = (
        _nearest_indices(large, small, align_corners, label.device) for large, small in zip(label.shape[1:], size, strict=True)
    )
    return label[:, rows][:, :, columns]


def _nearest_indices(large: int, small: int, align_corners: bool, device: torch.device) -> Tensor:
    index = torch.arange(small, device=device)
    if align_corners and small > 1:
        return (2 * index * (large - 1) + small - 1) // (2 * (small - 1))  # rounds in integer arithmetic
    return (2 * index + 1) * large // (2 * small)
