"""Components, settings and plan of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated

from torch import nn
from torch.optim import Optimizer

from segzoo.data.balance.sampling import Sampler
from segzoo.data.loader import Augment
from segzoo.device import ChannelsLast, DeviceName, PrecisionName
from segzoo.pruning._base import Pruner
from segzoo.registry import ConfigError, Range, Seed
from segzoo.transforms.mixing import MixBatch
from segzoo.types import Dataset, DatasetInfo, DistillationLoss, PlainDict, PlainMapping, SegmentationLoss

Positive = Annotated[int, Range(1, 10**8)]


@dataclass
class TrainingComponents:
    """The objects of a training, built by name elsewhere.

    Attributes:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``.
        train_set, val_set: labeled images.
        augment: ``(sample, seed) -> sample``, or None.
        loss: the loss of all heads.
        make_optimizer: called with the model on its device; parameter groups may carry ``name`` and ``base_lr``.
        make_schedule: called with the number of steps; returns ``step -> factor``, by which each group's ``base_lr`` is multiplied.
        info: classes and normalization; written into checkpoints.
        config: the plain configuration; written into checkpoints.
        sampler: chooses the training image of each position; None draws each image once per epoch. An epoch has as many images as the
            training set, whatever the sampler.
        mix: mixes the images of a batch; None mixes nothing.
        pruner: decides which channels are removed and when; None removes nothing.
        distill: the distillation term of the loss, or None.
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
    config: PlainDict
    sampler: Sampler | None = None
    mix: MixBatch | None = None
    pruner: Pruner | None = None
    distill: DistillationLoss | None = None
    widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of a training, each a key of ``conf/train.yaml``.

    Attributes:
        steps, epochs: length of the run in optimizer steps, or in passes over the training set. Exactly one is set.
        batch_size: images per forward pass on each rank.
        grad_accum_steps: forward passes per optimizer step. Their gradients add up to those of one large batch.
        workers: processes that read images. The result does not depend on it.
        device, precision: device, and number format of the layers. Weights, classifiers and losses stay fp32.
        channels_last: keep activations in NHWC order. ``auto``: where that is faster, see ``Precision.picks_channels_last``.
        clip_grad_norm: maximum gradient norm; None does not clip.
        seed: seed of data order, augmentation and dropout. ``build_training`` seeds the initial weights with it.
        eval_every: steps between evaluations; None makes about ten, at least an epoch apart. The last step is always evaluated.
        save_every: steps between additional checkpoints; None saves only before the first step and before each evaluation.
        keep_checkpoints: number of newest checkpoints to keep in addition to the best.
        log_every: steps between log rows.
        num_val_images: validation images whose predictions are logged at every evaluation.
        ema_decay: decay of a moving average of the weights. The average is evaluated and stored; None keeps no average.
        early_stopping_patience: evaluations without a better mIoU after which the run ends; None runs to the last step.
        max_nonfinite_steps: consecutive steps with a non-finite loss or gradient that are skipped before the run stops.
        bn_momentum: weight of a batch in the running statistics of every batch norm layer. Caffe's 0.95 is 0.05 here.
        sync_bn: compute batch norm statistics over all ranks, if every rank has CUDA.
        compile: compile the network with ``torch.compile``. Each new size of crops is compiled again.
        deterministic: use only deterministic operations. An operation without a deterministic version raises an error.
        dry_run: take a few small steps and estimate what a step needs instead of training.
    """

    steps: Positive | None = None
    epochs: Annotated[float, Range(0, 10**6, above=True)] | None = None
    batch_size: Annotated[int, Range(1, 65536)] = 8
    grad_accum_steps: Annotated[int, Range(1, 65536)] = 1
    workers: Annotated[int, Range(0, 1024)] = 2
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"
    channels_last: ChannelsLast = "auto"
    clip_grad_norm: Annotated[float, Range(0, 10**6, above=True)] | None = None
    seed: Seed = 0
    eval_every: Positive | None = None
    save_every: Positive | None = None
    keep_checkpoints: Positive = 2
    log_every: Positive = 10
    num_val_images: Annotated[int, Range(0, 1000)] = 4
    ema_decay: Annotated[float, Range(0, 0.99999)] | None = None
    early_stopping_patience: Positive | None = None
    max_nonfinite_steps: Annotated[int, Range(0, 10**8)] = 3
    bn_momentum: Annotated[float, Range(0, 1, above=True)] = 0.1
    sync_bn: bool = True
    compile: bool = False
    deterministic: bool = False
    dry_run: bool = False

    @property
    def images_per_step(self) -> int:
        """Images per optimizer step on each rank."""
        return self.batch_size * self.grad_accum_steps

    def check_images_seen(self, step: int, images: int, num_ranks: int) -> None:
        """Require equal steps in a run of a number of epochs.

        Args:
            step: steps that the run has taken.
            images: images that they have taken.
            num_ranks: processes that train together.

        Raises:
            ConfigError: they have taken another number, so ``epochs`` would count wrongly.
        """
        per_step = self.images_per_step * num_ranks
        if self.epochs is not None and images != step * per_step:
            raise ConfigError(
                f"epochs={self.epochs:g} with {per_step} images per step: the {step} steps of this run so far have taken {images} images, not "
                f"{step * per_step}. Keep batch_size, grad_accum_steps and the number of processes, or set steps=<number> epochs=null."
            )

    def plan(self, num_images: int, num_ranks: int) -> TrainingPlan:
        """Plan the length of the run and its evaluations.

        Args:
            num_images: size of the training set.
            num_ranks: processes that train together.

        Raises:
            ConfigError: ``steps`` and ``epochs`` are both given, or neither is.
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
    """Length of a run and the intervals of evaluations, checkpoints and logs."""

    total_steps: int
    epochs: float
    eval_every: int
    save_every: int
    log_every: int

    def evaluates_at(self, step: int) -> bool:
        return step > 0 and (step % self.eval_every == 0 or step == self.total_steps)

    def saves_at(self, step: int) -> bool:
        """Return True before the first step, before evaluations and every ``save_every`` steps."""
        return step % self.save_every == 0 or self.evaluates_at(step)

    def notes(self, patience: int | None, schedule: PlainMapping) -> list[str]:
        """List settings that have no effect in a run of this length.

        Args:
            patience: ``early_stopping_patience``.
            schedule: the ``schedule`` section.
        """
        notes, evaluations = [], math.ceil(self.total_steps / self.eval_every)
        if patience is not None and patience >= evaluations - 1:  # it could only stop at the last step
            notes.append(f"early_stopping_patience={patience} has no effect: the run has {evaluations} evaluations.")
        if schedule.get("name") == "step" and (every := schedule.get("every", 0)) >= self.total_steps:
            notes.append(
                f"schedule=step has no effect: the first decay is after schedule.every={every} steps of {self.total_steps}."
            )
        return notes

    def logs_at(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.total_steps


def count_steps(steps: int | None, epochs: float | None, num_images: int, images_per_step: int) -> int:
    """Compute the number of optimizer steps of a run.

    Raises:
        ConfigError: ``steps`` and ``epochs`` are both given, or neither is.
    """
    if (steps is None) == (epochs is None):
        given = "neither steps nor epochs is" if steps is None else f"steps={steps} and epochs={epochs} are both"
        raise ConfigError(f"{given} given. Set one, steps=<number> or epochs=<number>, and the other to null.")
    if steps is not None:
        return steps
    return max(1, math.ceil(Fraction(str(epochs)) * num_images / images_per_step))  # 100 times the float 0.07 is above 7
