"""Comparison of the rows of a table with its best one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segzoo.evaluation.best_model import worse_than_best
from segzoo.evaluation.bootstrap import MIN_IMAGES, resample, sum_groups
from segzoo.registry import ConfigError
from segzoo.workflows.compare.comparison import NOT_RESOLVED, scored_model
from segzoo.workflows.compare.compatibility import version_notes
from segzoo.workflows.compare.evaluations import read_evaluation
from segzoo.workflows.leaderboard.entries import Entry

BEST, LOWER = "best", "lower"


class Verdicts(NamedTuple):
    """Outcome of a comparison with the best row.

    Attributes:
        verdicts: of each row, ``best``, ``not resolved`` or ``lower``. They are None if the rows are not compared.
        intervals: 95 % interval of each row's mIoU, over the same units as the verdicts. None if the rows are not compared.
        notes: what limits the comparison.
    """

    verdicts: list[str | None]
    intervals: list[tuple[float, float] | None] | None
    notes: list[str]


def compare_with_best(entries: Sequence[Entry], max_compared: int, group_by: str | None) -> Verdicts:
    """Test which rows are certainly worse than the best one.

    Args:
        entries: the rows, the best one first.
        max_compared: tables of more rows are not compared, as all rows have to be.
        group_by: as in ``compare_evaluations``.
    """
    unknown: list[str | None] = [None] * len(entries)
    if max_compared == 0 or len(entries) == 1:
        return Verdicts(unknown, None, [])
    if len(entries) > max_compared:
        hint = f"Choose fewer by where.<name>=<value>, or set max_compared={len(entries)}."
        note = f"{len(entries)} runs are not compared with the best one, at most {max_compared} are. {hint}"
        return Verdicts(unknown, None, [note])
    resampled, evaluations, classes = [], [], list(entries[0].summary["per_class"])
    for entry in entries:
        try:
            evaluation = read_evaluation(entry.folder, entry.run.name)
        except ConfigError as error:
            return Verdicts(unknown, None, [f"The runs are not compared with the best one: {error}"])
        evaluations.append(evaluation)
        model = scored_model(evaluation.name, [evaluation], classes, group_by)
        counts = model.counts[0] if model.groups is None else sum_groups(model.counts[0], model.groups)
        resampled.append(resample(counts))
    values, draws = np.array([scores.values[0] for scores in resampled]), np.stack([scores.draws[:, 0] for scores in resampled], 1)
    is_lower = worse_than_best(values, draws, len(counts))
    notes = version_notes(evaluations)
    if len(counts) < MIN_IMAGES:
        notes.append(f"{len(counts)} images or groups are too few to resolve a difference, {MIN_IMAGES} are needed.")
    verdicts: list[str | None] = [BEST, *(LOWER if lower else NOT_RESOLVED for lower in is_lower[1:])]
    return Verdicts(verdicts, [scores.interval() for scores in resampled], notes)
