"""Comparison of the rows of a table with its best one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segzoo.evaluation.best_model import worse_than_best
from segzoo.evaluation.bootstrap import MIN_IMAGES, resample, sum_groups
from segzoo.registry import ConfigError
from segzoo.workflows.compare.comparison import NOT_RESOLVED, scored_model
from segzoo.workflows.compare.compatibility import version_notes
from segzoo.workflows.compare.evaluations import read_evaluation
from segzoo.workflows.leaderboard.entries import Entry

BEST, LOWER = "best", "lower"


def compare_with_best(entries: Sequence[Entry], max_compared: int, group_by: str | None) -> tuple[list[str | None], list[str]]:
    """Test which rows are certainly worse than the best one.

    Args:
        entries: the rows, the best one first.
        max_compared: tables of more rows are not compared, as all rows have to be.
        group_by: as in ``compare_evaluations``.

    Returns:
        A verdict for each row, ``best``, ``not resolved`` or ``lower``, and notes. The verdicts are None if the rows are not compared.
    """
    unknown: list[str | None] = [None] * len(entries)
    if max_compared == 0 or len(entries) == 1:
        return unknown, []
    if len(entries) > max_compared:
        hint = f"Choose fewer by where.<name>=<value>, or set max_compared={len(entries)}."
        return unknown, [f"{len(entries)} runs are not compared with the best one, at most {max_compared} are. {hint}"]
    resampled, evaluations, classes = [], [], list(entries[0].summary["per_class"])
    for entry in entries:
        try:
            evaluation = read_evaluation(entry.folder, entry.run.name)
        except ConfigError as error:
            return unknown, [f"The runs are not compared with the best one: {error}"]
        evaluations.append(evaluation)
        model = scored_model(evaluation.name, [evaluation], classes, group_by)
        counts = model.counts[0] if model.groups is None else sum_groups(model.counts[0], model.groups)
        scores = resample(counts)
        resampled.append((scores.values[0], scores.draws[:, 0]))
    is_lower = worse_than_best(
        np.array([value for value, _ in resampled]), np.stack([drawn for _, drawn in resampled], 1), len(counts)
    )
    notes = version_notes(evaluations)
    if len(counts) < MIN_IMAGES:
        notes.append(f"{len(counts)} images or groups are too few to resolve a difference, {MIN_IMAGES} are needed.")
    verdicts: list[str | None] = [BEST, *(LOWER if lower else NOT_RESOLVED for lower in is_lower[1:])]
    return verdicts, notes
