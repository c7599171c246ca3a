"""What a training is made of, its settings, and when it saves, evaluates and logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from torch import nn
from torch.optim import Optimizer

from segzoo.data.loader import Augment
from segzoo.device import DeviceName, PrecisionName
from segzoo.pruning._base import Pruner
from segzoo.registry import ConfigError, Range
from segzoo.types import Dataset, DatasetInfo, DistillationLoss, MixBatch, SegmentationLoss

Positive = Annotated[int, Range(1)]


@dataclass
class TrainingComponents:
    """The objects of a training, built by name elsewhere.

    Attributes:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``.
        train_set, val_set: labeled images.
        augment: ``(sample, seed) -> sample``, or None.
        loss: the loss of all heads.
        make_optimizer: called with the model on its device; parameter groups may carry ``name`` and ``base_lr``.
        make_schedule: called with the number of steps; returns ``step -> factor`` of each group's ``base_lr``.
        info: classes and normalization; written into checkpoints.
        config: the plain configuration; written into checkpoints.
        mix: mixes the images of a batch; None mixes nothing.
        pruner: when channels are removed, and which; None removes nothing.
        distill: a teacher's term of the loss, or None.
        widths: output channels of convolutions that a previous pruning changed, by module name.
    """

    model: nn.Module
    train_set: Dataset
    val_set: Dataset
    augment: Augment | None
    loss: SegmentationLoss
    make_optimizer: Callable[[nn.Module], Optimizer]
    make_schedule: Callable[[int], Callable[[int], float]]
    info: DatasetInfo
    config: dict[str, Any]
    mix: MixBatch | None = None
    pruner: Pruner | None = None
    distill: DistillationLoss | None = None
    widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training, each a key of ``conf/train.yaml``.

    Attributes:
        steps, epochs: length of the run in optimizer steps, or in passes over the training set; exactly one is set.
        batch_size: images per forward pass on each rank.
        grad_accum_steps: forward passes per step; gradients add up to those of one large batch.
        workers: processes that read images; the result does not depend on it.
        device, precision: device, and number format of the layers; weights, classifiers and losses stay fp32.
        channels_last: keep activations in NHWC order.
        clip_grad_norm: largest gradient norm; None does not clip.
        seed: of data order, augmentation and dropout; ``build_training`` seeds the initial weights with it.
        eval_every: steps between evaluations; None makes about ten, at least an epoch apart. The last step is always evaluated.
        save_every: steps between further checkpoints; None saves before the first step and before each evaluation only.
        keep_checkpoints: newest checkpoints to keep besides the best.
        log_every: steps between log rows.
        num_val_images: validation images whose predictions are logged at every evaluation.
        ema_decay: decay of an exponential moving average of the weights, which is then evaluated and stored; None keeps none.
        early_stopping_patience: evaluations without a better mIoU after which the run ends; None runs to the last step.
        max_nonfinite_steps: consecutive steps with a non-finite loss or gradient that are skipped before the run stops.
        sync_bn: batch norm statistics over all ranks, where every rank has CUDA.
        deterministic: use deterministic operations only; an operation without a deterministic version raises an error.
        dry_run: take a few small steps and estimate what a step needs instead of training.
    """

    steps: Positive | None = None
    epochs: Annotated[float, Range(0, None, above=True)] | None = None
    batch_size: Positive = 8
    grad_accum_steps: Positive = 1
    workers: Annotated[int, Range(0)] = 2
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    channels_last: bool = True
    clip_grad_norm: Annotated[float, Range(0, None, above=True)] | None = None
    seed: Annotated[int, Range(0)] = 0
    eval_every: Positive | None = None
    save_every: Positive | None = None
    keep_checkpoints: Positive = 2
    log_every: Positive = 10
    num_val_images: Annotated[int, Range(0)] = 4
    ema_decay: Annotated[float, Range(0, 1)] | None = None
    early_stopping_patience: Positive | None = None
    max_nonfinite_steps: Annotated[int, Range(0)] = 3
    sync_bn: bool = True
    deterministic: bool = False
    dry_run: bool = False

    @property
    def images_per_step(self) -> int:
        """Images per optimizer step on each rank."""
        return self.batch_size * self.grad_accum_steps

    def plan(self, num_images: int, num_ranks: int) -> TrainingPlan:
        """Settle how long to train and when to evaluate.

        Args:
            num_images: size of the training set.
            num_ranks: processes that train together.

        Raises:
            ConfigError: both or neither of ``steps`` and ``epochs`` are given.
        """
        images_per_step = self.images_per_step * num_ranks
        total = count_steps(self.steps, self.epochs, num_images, images_per_step)
        eval_every = self.eval_every or max(1, round(total / 10), min(num_images // images_per_step, total))
        return TrainingPlan(
            total_steps=total,
            epochs=total * images_per_step / num_images,
            eval_every=eval_every,
            save_every=self.save_every or total,
            log_every=self.log_every,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The length of a run, and after which steps it evaluates, saves and logs."""

    total_steps: int
    epochs: float
    eval_every: int
    save_every: int
    log_every: int

    def evaluates_at(self, step: int) -> bool:
        return step > 0 and (step % self.eval_every == 0 or step == self.total_steps)

    def saves_at(self, step: int) -> bool:
        """Whether to save: before the first step, before every evaluation, and every ``save_every`` steps."""
        return step % self.save_every == 0 or self.evaluates_at(step)

    def logs_at(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.total_steps


def count_steps(steps: int | None, epochs: float | None, num_images: int, images_per_step: int) -> int:
    """Compute the optimizer steps of a run from its length in steps or epochs.

    Raises:
        ConfigError: both or neither of ``steps`` and ``epochs`` are given.
    """
    if (steps is None) == (epochs is None):
        given = "neither steps nor epochs is" if steps is None else f"steps={steps} and epochs={epochs} are both"
        raise ConfigError(f"{given} given. Set one, steps=<number> or epochs=<number>, and the other to null.")
    return steps if steps is not None else max(1, math.ceil((epochs or 0) * num_images / images_per_step))
