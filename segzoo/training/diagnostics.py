"""What a person watching a training would notice: each oddity is said once, in a sentence with the override to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from segzoo.types import Batch

DATA_BOUND_FRACTION = 0.3  # share of the time spent waiting for data that is worth a word
ROWS = 20  # rows of the log after which a loss should have fallen
MIOU_DROP = 0.98  # of its first quarter


class TrainingDiagnostics:
    """Looks at steps, rows of the log and evaluations.

    Args:
        say: prints a line.
        workers: processes that read images now.
    """

    def __init__(self, say: Callable[[str], None], workers: int):
        self._info, self._workers = say, workers
        self._warned: set[str] = set()
        self._losses: list[float] = []
        self._missed: set[str] | None = None

    def on_step(self, number: int, valid: float, group: Sequence[Batch]) -> None:
        """A step in which no pixel counted."""
        if valid == 0:
            names = ", ".join(name for batch in group for name in batch.names)
            self._warn_once(
                "ignored",
                f"step {number}: all pixels of {names} are ignored, so nothing was learned from them. Check data.label_map, "
                "or make augment.crop larger.",
            )

    def on_log(self, loss: float, waiting: float) -> None:
        """A row of the log: a loader slower than the device, a loss that does not fall."""
        self._losses.append(loss)
        if waiting > DATA_BOUND_FRACTION and len(self._losses) > 1:  # the first row holds the start of the workers
            self._warn_once(
                "starved",
                f"{waiting:.0%} of the time goes into waiting for data: try workers={max(2, 2 * self._workers)}, or store the images at "
                "the size they are trained at.",
            )
        if len(self._losses) == ROWS:
            quarter = ROWS // 4
            first, last = sum(self._losses[:quarter]) / quarter, sum(self._losses[-quarter:]) / quarter
            if not last < MIOU_DROP * first:
                self._warn_once(
                    "flat",
                    f"the loss has not fallen in {ROWS} rows of the log ({first:.3f} to {last:.3f}): try a tenth or ten times optim.lr, "
                    "schedule.warmup=100, or weights to start from (backbone.weights=imagenet, init.ckpt=<run>).",
                )

    def on_evaluation(self, confusion: np.ndarray, classes: Sequence[str]) -> None:
        """Classes that two evaluations in a row never predicted though their pixels are there."""
        missed = {name for name, row, column in zip(classes, confusion, confusion.T, strict=True) if row.sum() and not column.sum()}
        again = missed & (self._missed or set())
        self._missed = missed
        if again:
            self._warn_once(
                "missed",
                f"never predicted, twice in a row: {', '.join(sorted(again))}. Give rare classes a weight in loss.class_weights, "
                "try loss=ohem, or train longer.",
            )

    def _warn_once(self, what: str, sentence: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._info(f"note: {sentence}")
