"""Warnings about a training, each printed once with the override to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from segzoo.types import Batch

DATA_BOUND_FRACTION = 0.3  # above this fraction of time spent waiting for data, a hint is printed
LOG_ROWS = 20  # log rows after which the loss should have decreased
FLAT_LOSS = 0.98  # above this ratio of its latest to its first rows, the loss counts as flat


class TrainingDiagnostics:
    """Watches steps, log rows and evaluations for common problems.

    Args:
        info: prints a line.
        workers: processes that read images.
    """

    def __init__(self, info: Callable[[str], None], workers: int):
        self._info, self._workers = info, workers
        self._warned: set[str] = set()
        self._losses: list[float] = []
        self._missed: set[str] | None = None

    def on_step(self, step: int, valid: float, batches: Sequence[Batch]) -> None:
        """Warn about a step in which every pixel is ignored."""
        if valid == 0:
            names = ", ".join(name for batch in batches for name in batch.names)
            self._warn_once(
                "ignored",
                f"step {step}: all pixels of {names} are ignored, so nothing was learned from them. Check data.label_map, "
                "or increase augment.crop.",
            )

    def on_log(self, loss: float, waiting: float) -> None:
        """Warn about slow data loading and a loss that does not decrease."""
        self._losses.append(loss)
        if waiting > DATA_BOUND_FRACTION and len(self._losses) > 1:  # the first row includes starting the workers
            self._warn_once(
                "data_bound",
                f"{waiting:.0%} of the time is spent waiting for data: try workers={max(2, 2 * self._workers)}, or store the images at "
                "the size used for training.",
            )
        if len(self._losses) == LOG_ROWS:
            quarter = LOG_ROWS // 4
            first, last = sum(self._losses[:quarter]) / quarter, sum(self._losses[-quarter:]) / quarter
            if not last < FLAT_LOSS * first:
                self._warn_once(
                    "flat",
                    f"the loss has not decreased in {LOG_ROWS} log rows ({first:.3f} to {last:.3f}): try a tenth or ten times optim.lr, "
                    "schedule.warmup=100, or weights to start from (backbone.weights=imagenet, init.ckpt=<run>).",
                )

    def on_evaluation(self, confusion: np.ndarray, classes: Sequence[str]) -> None:
        """Warn about existing classes that two consecutive evaluations never predicted."""
        missed = {name for name, row, column in zip(classes, confusion, confusion.T, strict=True) if row.sum() and not column.sum()}
        again = missed & (self._missed or set())
        self._missed = missed
        if again:
            self._warn_once(
                "missed",
                f"never predicted in two consecutive evaluations: {', '.join(sorted(again))}. Increase their loss.class_weights, "
                "try loss=ohem, or train longer.",
            )

    def _warn_once(self, topic: str, sentence: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            self._info(f"note: {sentence}")
