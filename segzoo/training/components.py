"""What a training is made of, and its settled settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from segzoo.data.loader import Augment
from segzoo.registry import ConfigError
from segzoo.types import Dataset, DatasetInfo


@dataclass(frozen=True)
class TrainingSettings:
    """The numbers of a training, settled: nothing is None that needs a value."""

    total: int
    batch_size: int
    grad_accum_steps: int
    workers: int
    channels_last: bool
    clip_grad_norm: float | None
    seed: int
    eval_every: int
    save_every: int
    keep_checkpoints: int
    log_every: int
    num_val_images: int
    ema_decay: float | None
    early_stopping_patience: int | None
    max_nonfinite_steps: int
    sync_bn: bool

    @property
    def images(self) -> int:
        """Images a step on each rank."""
        return self.batch_size * self.grad_accum_steps

    def epochs(self, pictures: int, ranks: int) -> float:
        """Passes over a training set of so many images."""
        return self.total * self.images * ranks / pictures

    def evaluates(self, step: int) -> bool:
        return step > 0 and (step % self.eval_every == 0 or step == self.total)

    def saves(self, step: int) -> bool:
        """Before the first step, before every evaluation, and every ``save_every`` steps."""
        return step % self.save_every == 0 or self.evaluates(step)

    def logs(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.total


def total_steps(steps: int | None, epochs: float | None, images: int, images_per_step: int) -> int:
    """Optimizer steps of the whole run. Raises ConfigError unless exactly one of steps and epochs is given."""
    if (steps is None) == (epochs is None):
        came = "neither is" if steps is None else f"steps={steps} and epochs={epochs} are"
        raise ConfigError(f"{came} given; say how long to train by one of them: steps=<number> or epochs=<number>, the other null")
    return steps if steps is not None else max(1, math.ceil((epochs or 0) * images / images_per_step))


@dataclass
class TrainingComponents:
    """What a training is made of; the engine knows none of it by name.

    Attributes:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``.
        train_set, val_set: labeled images.
        augment: ``(sample, seed) -> sample``, or None.
        loss: ``loss.terms(logits, label, weight)`` of each head, ``loss.total(terms)`` and ``loss.weight(label, logits)``.
        make_optimizer: called with the model once it is on its device; groups may carry ``name`` and ``base_lr``.
        make_schedule: called with the number of steps; gives ``step -> factor`` of each group's ``base_lr``.
        info: classes and normalization; written into checkpoints.
        config: the plain configuration; written into checkpoints.
        mix: ``(label, seed) -> targets, mixer of pictures``, see ``segzoo.transforms.mixing``; None mixes nothing.
        pruner: when channels are removed, and which, see ``segzoo.pruning``; None removes nothing.
        distill: a teacher's term of the loss, see ``segzoo.losses.distillation``; None has none.
        widths: output channels of convolutions that are not what ``config`` says, by name: the model was pruned before.
    """

    model: nn.Module
    train_set: Dataset
    val_set: Dataset
    augment: Augment | None
    loss: Any
    make_optimizer: Callable[[nn.Module], Optimizer]
    make_schedule: Callable[[int], Callable[[int], float]]
    info: DatasetInfo
    config: dict[str, Any]
    mix: Any = None
    pruner: Any = None
    distill: Any = None
    widths: Mapping[str, int] = field(default_factory=dict)
