"""Warnings about a training, and errors once it has diverged.

Each warning is printed once, with the override to try.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from segzoo.training.state import Diverged
from segzoo.types import Batch

DATA_BOUND_FRACTION = 0.2  # above this fraction of time spent waiting for data, a hint is printed
LOG_ROWS = 20  # log rows after which the loss should have decreased
FLAT_LOSS = 0.98  # above this ratio of its latest to its first rows, the loss counts as flat
# Limits of a training that can recover, in units of ln(K), the loss of a uniform prediction. Training starts at less than 100 of them.
# Validation may start at more, as the running statistics of batch norm follow the weights slowly.
MAX_LOSS, MAX_VAL_LOSS = 1e3, 1e6
MAX_STEPS_ABOVE = 20  # consecutive steps with a loss above MAX_LOSS after which a training has diverged
MAX_WEIGHT = 1e6  # trained weights are below 1000
ADVICE = "lower optim.lr, add schedule.warmup=100, or set clip_grad_norm=1.0"


class TrainingDiagnostics:
    """Watches steps, log rows and evaluations for common problems.

    It raises ``Diverged`` on every rank alike once a training has diverged.

    Args:
        info: prints a line.
        workers: processes that read images.
        num_classes: number of classes.
        start: the step at which this process starts. The loss of a resumed run may have converged.
    """

    def __init__(self, info: Callable[[str], None], workers: int, num_classes: int, start: int = 0):
        self._info, self._workers, self._num_classes, self._start = info, workers, num_classes, start
        self._uniform_loss, self._steps_above = math.log(max(num_classes, 2)), 0
        self._warned: set[str] = set()
        self._losses: list[float] = []
        self._missed: set[str] | None = None

    def on_step(self, step: int, loss: float | None, valid: float, batches: Sequence[Batch]) -> None:
        """Warn about a step in which every pixel is ignored.

        Args:
            step: the step, counted from 1.
            loss: loss of the main head; None if the step was skipped.
            valid: weight of the valid pixels.
            batches: the batches of the step.

        Raises:
            Diverged: the loss has been too high for too many consecutive steps.
        """
        if loss is not None:
            self._steps_above = self._steps_above + 1 if loss > MAX_LOSS * self._uniform_loss else 0
        if self._steps_above >= MAX_STEPS_ABOVE:
            raise Diverged(
                f"the loss has been above {MAX_LOSS * self._uniform_loss:.0f} for {self._steps_above} steps and is {loss:.2g} at step {step}, "
                f"where a uniform prediction has {self._uniform_loss:.2f}: {ADVICE}, and start again"
            )
        if valid == 0:
            names = ", ".join(name for batch in batches for name in batch.names)
            if all(bool((batch.label >= self._num_classes).all()) for batch in batches):
                reason = f"all pixels of {names} are ignored, so nothing was learned from them. Check data.label_map, or increase augment.crop."
            else:
                reason = f"all labeled pixels of {names} have classes of weight 0 in loss.class_weights, so nothing was learned from them."
            self._warn_once("ignored", f"step {step}: {reason}")

    def on_log(self, loss: float, waiting: float) -> None:
        """Warn about slow data loading and a loss that does not decrease."""
        if math.isfinite(loss):  # not so if every step of the row was skipped
            self._losses.append(loss)
        if waiting > DATA_BOUND_FRACTION and len(self._losses) > 1:  # the first row includes starting the workers
            self._warn_once(
                "data_bound",
                f"{waiting:.0%} of the time is spent waiting for data: try data.cache=disk, or workers={max(2, 2 * self._workers)} "
                f"if there are more than {self._workers} cores.",
            )
        if len(self._losses) == LOG_ROWS and self._start == 0:
            quarter = LOG_ROWS // 4
            first, last = sum(self._losses[:quarter]) / quarter, sum(self._losses[-quarter:]) / quarter
            if not last < FLAT_LOSS * first:
                self._warn_once(
                    "flat",
                    f"the loss has not decreased in {LOG_ROWS} log rows ({first:.3f} to {last:.3f}): try a tenth or ten times optim.lr, "
                    "schedule.warmup=100, or weights to start from (backbone.weights=imagenet, init.ckpt=<run>).",
                )

    def on_checkpoint(self, step: int, model: nn.Module) -> None:
        """Check the weights before they are saved.

        Raises:
            Diverged: a weight is not finite or out of range.
        """
        named = dict(model.named_parameters())
        largest = torch.stack([tensor.detach().abs().max() for tensor in named.values()]).nan_to_num(nan=math.inf)
        if largest.max() > MAX_WEIGHT:
            name = list(named)[int(largest.argmax())]
            raise Diverged(
                f"{name} holds a weight of {float(named[name].detach().abs().max()):.2g} at step {step}, so no checkpoint was saved: {ADVICE}, "
                "and resume with resume=<run directory>"
            )

    def on_evaluation(self, step: int, loss: float | None, confusion: np.ndarray, classes: Sequence[str]) -> None:
        """Warn about existing classes that two consecutive evaluations never predicted.

        Raises:
            Diverged: the loss is not finite or out of range.
        """
        if loss is not None and not loss <= MAX_VAL_LOSS * self._uniform_loss:
            raise Diverged(
                f"the validation loss is {loss:.2g} at step {step}, where a uniform prediction has {self._uniform_loss:.2f}. The step is "
                f"neither scored nor kept: {ADVICE} (with precision=fp16 also try precision=bf16), and resume with resume=<run directory>"
            )
        missed = {name for name, row, column in zip(classes, confusion, confusion.T, strict=True) if row.sum() and not column.sum()}
        again = missed & (self._missed or set())
        self._missed = missed
        if again:
            self._warn_once(
                "missed",
                f"never predicted in two consecutive evaluations: {', '.join(sorted(again))}. Try loss.class_weights=auto, "
                "sampler=rare_class or loss=ohem, or train longer.",
            )

    def _warn_once(self, topic: str, sentence: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            self._info(f"note: {sentence}")
