"""One optimizer step over all ranks and accumulated batches.

A step with a non-finite loss or gradient is skipped as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from segzoo.data.balance.sampling import derive_seed
from segzoo.inference.passes.forward_pass import forward
from segzoo.layers.normalize import normalize
from segzoo.registry import ConfigError
from segzoo.training.state import Diverged
from segzoo.transforms.mixing import MixImages
from segzoo.types import Batch, Logits, SegmentationLoss

if TYPE_CHECKING:
    from segzoo.training.context import TrainingContext


class MixedBatch(NamedTuple):
    """A batch and how its images and labels are mixed."""

    image: Tensor  # (N, H, W, 3) uint8, not mixed yet
    targets: list[tuple[Tensor, float]]  # label maps (N, H, W) on the device, each with its weight
    mix_images: MixImages


class TrainStep:
    """Takes optimizer steps.

    A step with a non-finite loss or gradient changes neither weights nor running statistics.

    Args:
        context: the objects of the running training.

    Attributes:
        valid: weight of the valid pixels of the last step.
    """

    def __init__(self, context: TrainingContext):
        self.context = context
        self.model, self.loss, self.dist = context.model, context.components.loss, context.dist
        self.valid = 0.0
        model = compile_network(context.model) if context.settings.compile else context.model
        self.net = context.dist.wrap_ddp(model, context.settings.sync_bn)
        if context.components.distill is not None:
            context.components.distill.attach(context.model)  # whose batch norm layers are now those that run
        self._buffers = [buffer for buffer in context.model.buffers() if buffer.is_floating_point()]
        self._saved_buffers = [buffer.clone() for buffer in self._buffers]

    def __call__(self, batches: Sequence[Batch], step: int) -> dict[str, float]:
        """Take one step over the accumulated batches of this rank.

        Args:
            batches: the batches to accumulate.
            step: counted from 1; seeds the mixing of images.

        Returns:
            ``loss``, its parts ``loss_main`` and ``loss_aux`` (auxiliary heads and distillation), and ``grad_norm``. They are the same on
            every rank.

        Raises:
            Diverged: the loss or the gradient is not finite.
            ConfigError: the batches differ in size and the loss works at the resolution of the logits.
        """
        _check_sizes(batches, self.loss)
        if self._buffers:
            torch._foreach_copy_(self._saved_buffers, self._buffers)  # type: ignore[attr-defined]
        try:
            values, losses = self._backward(batches, step)
            if not math.isfinite(values["loss"]):
                raise Diverged(_diverged_message(f"the loss is {values['loss']}", step, self._nonfinite_images(batches, losses)))
            norm = self._update(batches, step)
            values |= {"grad_norm": norm} if math.isfinite(norm) else {}  # else the step was skipped
        except Diverged:
            self._undo()
            raise
        return values

    def _undo(self) -> None:
        """Drop the gradients and restore the running statistics."""
        self.context.optimizer.zero_grad(set_to_none=True)
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._saved_buffers)  # type: ignore[attr-defined]

    def _backward(self, batches: Sequence[Batch], step: int) -> tuple[dict[str, float], list[Tensor]]:
        """Accumulate gradients over the batches.

        Returns:
            The values of the step over all ranks, and the loss of each batch of this rank.
        """
        self.context.optimizer.zero_grad(set_to_none=True)
        mixed = [self._mix_batch(batch, step * len(batches) + index) for index, batch in enumerate(batches)]
        valid_weight: Tensor | None = None
        total_losses, main_losses = [], []
        for index, batch in enumerate(mixed):
            x = batch.mix_images(self._normalize(batch.image))
            with self.dist.no_sync_until_last(self.net, index == len(mixed) - 1):
                logits = self._forward(self.net, x)
                if valid_weight is None:  # that of the whole step, so the gradients of its batches and ranks add up
                    valid_weight = self._valid_weight(mixed, logits)
                terms = torch.stack(
                    [mix_weight * self.loss.terms(logits, label, valid_weight) for label, mix_weight in batch.targets]
                ).sum(0)
                loss = self.loss.total(terms)
                if self.context.components.distill is not None:  # a mean over images, to which each batch and rank adds its part
                    distill_loss = self.context.components.distill(x, logits, self._forward)
                    loss = loss + distill_loss / (len(mixed) * self.dist.size)
                self.context.precision.scaler.scale(loss * self.dist.size).backward()  # DDP averages over ranks
            total_losses.append(loss.detach())
            main_losses.append(terms[0].detach())
        assert valid_weight is not None
        return self._step_values(total_losses, main_losses, valid_weight), total_losses

    def _valid_weight(self, batches: Sequence[MixedBatch], logits: Logits) -> Tensor:
        """Sum the valid weight of each head over all batches and ranks.

        Only the shapes of the logits are used.
        """
        weights = [mix_weight * self.loss.weight(label, logits) for batch in batches for label, mix_weight in batch.targets]
        return self.dist.sum(torch.stack(weights).sum(0))

    def _step_values(self, total_losses: list[Tensor], main_losses: list[Tensor], valid_weight: Tensor) -> dict[str, float]:
        sums = self.dist.sum(torch.stack([torch.stack(total_losses).sum(), torch.stack(main_losses).sum()]))
        total, main, self.valid = torch.cat([sums, valid_weight[:1]]).tolist()
        return {"loss": total, "loss_main": main, "loss_aux": total - main}

    def _normalize(self, image: Tensor) -> Tensor:
        context, precision = self.context, self.context.precision
        channels_last = precision.picks_channels_last(context.settings.channels_last)
        return normalize(image, context.components.info, precision.device, channels_last)

    def _forward(self, net: nn.Module, x: Tensor) -> Logits:
        return forward(net, x, self.context.precision)

    def _mix_batch(self, batch: Batch, position: int) -> MixedBatch:
        """Move the labels to the device and draw the mixing."""
        label = batch.label.to(self.context.precision.device, non_blocking=True)
        if self.context.components.mix is None:
            return MixedBatch(batch.image, [(label, 1.0)], _identity)
        seed = derive_seed(self.context.settings.seed, position, self.dist.rank)
        return MixedBatch(batch.image, *self.context.components.mix(label, seed))

    def _update(self, batches: Sequence[Batch], step: int) -> float:
        """Clip the gradient and step the optimizer.

        Returns:
            The gradient norm before clipping.
        """
        optimizer, scaler, clip = self.context.optimizer, self.context.precision.scaler, self.context.settings.clip_grad_norm
        scaler.unscale_(optimizer)
        self.context.pruning.add_sparsity_gradient_()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm_value = float(norm)  # read once and before the step, for which a GPU would otherwise be waited for as well
        if not math.isfinite(norm_value):
            self._reject_gradient(norm_value, batches, step)
            return norm_value
        if clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), clip, norm)
        scaler.step(optimizer)
        scaler.update()
        return norm_value

    def _reject_gradient(self, norm: float, batches: Sequence[Batch], step: int) -> None:
        """Skip the step, without a call of the optimizer.

        Fused optimizers would create their state from such a gradient. In fp16 it is ordinary until the scaler has found its scale.

        Raises:
            Diverged: the scale is not the cause.
        """
        precision = self.context.precision
        precision.scaler.update()
        if precision.name != "fp16" or precision.scaler.get_scale() < 1:
            raise Diverged(_diverged_message(f"the gradient norm is {norm}", step, self._nonfinite_images(batches, [])))
        self._undo()

    def _nonfinite_images(self, batches: Sequence[Batch], losses: Sequence[Tensor]) -> list[str]:
        """Name the images of all ranks whose loss is not finite.

        If there are none, as with a non-finite gradient, all images of the step are named.
        """
        nonfinite = [batch for batch, loss in zip(batches, losses, strict=False) if not torch.isfinite(loss)]
        names = self.dist.gather([name for batch in nonfinite for name in batch.names])
        if not any(names):
            names = self.dist.gather([name for batch in batches for name in batch.names])
        return [name for rank_names in names for name in rank_names]


def compile_network(model: nn.Module) -> nn.Module:
    """Compile a network at the first call with each input size.

    The network itself runs uncompiled. Graphs of its layers before a pruning are dropped.
    """
    torch.compiler.reset()
    return cast(nn.Module, torch.compile(model, dynamic=False))


def _identity(x: Tensor) -> Tensor:
    return x


def _check_sizes(batches: Sequence[Batch], loss: SegmentationLoss) -> None:
    """Reject batches of several sizes unless the loss has label resolution.

    At logit resolution, the valid weight depends on the logits of each batch, which are unknown at the first forward pass.
    """
    if len({tuple(batch.label.shape) for batch in batches}) > 1 and getattr(loss, "resolution", None) != "label":
        names = ", ".join(f"{batch.names[0]} {batch.label.shape[1]}x{batch.label.shape[2]}" for batch in batches)
        raise ConfigError(
            f"grad_accum_steps={len(batches)} with images of several sizes ({names}, HxW) needs loss.resolution=label, or crops of one size: "
            "'augment.crop=[H,W]'"
        )


def _diverged_message(problem: str, step: int, names: list[str]) -> str:
    return (
        f"{problem} at step {step}, on {', '.join(names)}. The step changed no weights. Check these images and their "
        "labels; otherwise lower optim.lr, add schedule.warmup, or set clip_grad_norm=1.0"
    )
