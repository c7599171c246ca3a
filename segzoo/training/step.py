"""One optimizer step over all ranks and accumulated parts, and what happens when its numbers go wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from segzoo.data.loader import derive_seed
from segzoo.device import Precision
from segzoo.distributed import Distributed
from segzoo.inference.segment import forward
from segzoo.layers.normalize import normalize
from segzoo.registry import ConfigError
from segzoo.training.components import TrainingSettings
from segzoo.training.state import Diverged
from segzoo.types import Batch, Logits

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents
    from segzoo.training.pruning import ScheduledPruning


class TrainStep:
    """Takes optimizer steps. A step whose numbers are not finite touches neither weights nor running statistics.

    Args:
        net: what is called: the model, or the model wrapped for several ranks.
        model: the model itself.
        optimizer: its optimizer.
        parts: loss, mixing, teacher and dataset info.
        plan: the settled numbers of the run.
        formats: number format and device.
        world: the ranks.
        slimming: presses the scales of norms whose channels are to go.

    Attributes:
        valid: weight of the pixels that counted in the last step.
    """

    def __init__(
        self,
        net: nn.Module,
        model: nn.Module,
        optimizer: Optimizer,
        parts: TrainingComponents,
        plan: TrainingSettings,
        formats: Precision,
        world: Distributed,
        slimming: ScheduledPruning,
    ):
        self.net, self.model, self.optimizer = net, model, optimizer
        self.parts, self.plan, self.formats, self.world, self.slimming = parts, plan, formats, world, slimming
        self.valid = 0.0
        if parts.distill is not None:
            parts.distill.attach(model)
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._kept = [buffer.clone() for buffer in self._buffers]

    def __call__(self, group: Sequence[Batch], number: int) -> dict[str, float]:
        """One step over the accumulated batches of this rank.

        Args:
            group: the batches, as many as are accumulated.
            number: the step, counted from 1; seeds the mixing of images.

        Returns:
            ``loss``, ``grad_norm`` and, where rows are logged, ``loss_main`` and ``loss_aux`` (auxiliary heads, and a teacher); the
            same on every rank.

        Raises:
            Diverged: the loss or the gradient is not finite.
            ConfigError: accumulated batches of several sizes under a loss that works at the size of the logits.
        """
        _check_sizes(group, self.parts.loss)
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)  # type: ignore[attr-defined]
        try:
            values, losses = self._backward(group, number)
            if not math.isfinite(values["loss"]):
                raise Diverged(_advice(f"the loss is {values['loss']}", number, self._image_losses(group, losses)))
            values["grad_norm"] = self._update(group, number)
        except Diverged:
            self.optimizer.zero_grad(set_to_none=True)
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._kept)  # type: ignore[attr-defined]
            raise
        return values

    def _backward(self, group: Sequence[Batch], number: int) -> tuple[dict[str, float], list[Tensor]]:
        """Gradients of all parts; the step's values over all ranks, and this rank's loss of each part."""
        self.optimizer.zero_grad(set_to_none=True)
        blends = [
            self._mix_batch(batch.label.to(self.formats.device, non_blocking=True), number * len(group) + part)
            for part, batch in enumerate(group)
        ]
        loss, weight, losses, main = self.parts.loss, None, [], []
        for part, (batch, (targets, mixed)) in enumerate(zip(group, blends, strict=True)):
            x = mixed(normalize(batch.image, self.parts.info, self.formats.device, self.plan.channels_last))
            with self.world.no_sync_until_last(self.net, part == len(group) - 1):
                logits = forward(self.net, x, self.formats)
                if weight is None:  # of all parts and ranks, so that their gradients add up; the logits only lend their sizes
                    shares = [share * loss.weight(label, logits) for others, _ in blends for label, share in others]
                    weight = self.world.sum(torch.stack(shares).sum(0))
                terms = torch.stack([share * loss.terms(logits, label, weight) for label, share in targets]).sum(0)
                total = loss.total(terms)
                if self.parts.distill is not None:  # a mean over images, so each part and rank has its share
                    taught = self.parts.distill(x, logits, self._forward)
                    total = total + taught / (len(group) * self.world.size)
                self.formats.scaler.scale(total * self.world.size).backward()  # ranks average their gradients
            losses.append(total.detach())
            main.append(terms[0].detach())
        assert weight is not None
        sums = self.world.sum(torch.stack([torch.stack(losses).sum(), torch.stack(main).sum()]))
        whole, first, self.valid = torch.cat([sums, weight[:1]]).tolist()
        shown = {"loss_main": first, "loss_aux": whole - first} if self.plan.logs(number) else {}
        return {"loss": whole, **shown}, losses

    def _forward(self, net: nn.Module, x: Tensor) -> Logits:
        return forward(net, x, self.formats)

    def _mix_batch(self, label: Tensor, position: int) -> Any:
        """Labels with their shares, and what mixes the images likewise."""
        if self.parts.mix is None:
            return [(label, 1.0)], _identity
        return self.parts.mix(label, derive_seed(self.plan.seed, position, self.world.rank))

    def _update(self, group: Sequence[Batch], number: int) -> float:
        """The optimizer's step; returns the norm of the gradient before clipping."""
        scaler = self.formats.scaler
        scaler.unscale_(self.optimizer)
        self.slimming.add_sparsity_gradient_()
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.formats.name != "fp16" and not torch.isfinite(norm):  # fp16: the scaler skips such a step and lowers its scale
            raise Diverged(_advice(f"the gradient's norm is {float(norm)}", number, self._image_losses(group, [])))
        if self.plan.clip_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.plan.clip_grad_norm, norm)
        scaler.step(self.optimizer)
        scaler.update()
        return float(norm)

    def _image_losses(self, group: Sequence[Batch], losses: Sequence[Tensor]) -> list[str]:
        """The images of all ranks whose loss is not finite; all images where that cannot be told."""
        guilty = [batch for batch, loss in zip(group, losses, strict=False) if not torch.isfinite(loss)]
        found = self.world.gather([name for batch in guilty for name in batch.names])
        if not any(found):
            found = self.world.gather([name for batch in group for name in batch.names])
        return [name for names in found for name in names]


def _identity(x: Tensor) -> Tensor:
    return x


def _check_sizes(group: Sequence[Batch], loss: Any) -> None:
    """Accumulated batches may differ in size only if the loss works at label size: else its weight depends on each one's logits."""
    if len({tuple(batch.label.shape) for batch in group}) > 1 and getattr(loss, "resolution", None) != "label":
        names = ", ".join(f"{batch.names[0]} {batch.label.shape[1]}x{batch.label.shape[2]}" for batch in group)
        raise ConfigError(
            f"grad_accum_steps={len(group)} with images of several sizes ({names}, HxW) needs loss.resolution=label, or one size by augment.crop=[H,W]"
        )


def _advice(what: str, number: int, names: list[str]) -> str:
    return (
        f"{what} at step {number}, on {', '.join(names)}. The weights are still those before it. Look at these images and their "
        "labels; else lower optim.lr, add schedule.warmup, or set clip=1.0"
    )
