"""Comparison of evaluations, as plain values and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Annotated

import numpy as np

from segzoo.data.splitting.grouping import group_names
from segzoo.evaluation.bootstrap import MIN_IMAGES, ResampledScores
from segzoo.evaluation.model_comparison import (
    Comparison,
    Pair,
    ScoredModel,
    changed_images,
    compare_models,
    enough_draws,
    same_networks,
)
from segzoo.messages import printable, unknown_name_error
from segzoo.registry import ConfigError, Range
from segzoo.types import PlainDict
from segzoo.workflows.compare.compatibility import check_comparable, distinct_evaluations, is_from_files, seed_groups, version_notes
from segzoo.workflows.compare.evaluations import StoredEvaluation

NOT_RESOLVED = "not resolved"
AMPLE_FREEDOM = 4  # degrees of freedom from which the interval of a mean is below 1.5 times that of a known deviation


def compare_evaluations(
    evaluations: Sequence[StoredEvaluation],
    *,
    group_by: str | None = None,
    group_seeds: bool = True,
    baseline: str | None = None,
    draws: Annotated[int, Range(1000, 1_000_000)] = 10_000,
    changed: Annotated[int, Range(0, 10_000)] = 10,
    force: bool = False,
) -> PlainDict:
    """Compare models by their evaluations on the same images.

    Args:
        evaluations: of at least two models or seeds.
        group_by: pattern of the groups in the images' names, as in ``group_names``. The images of a group are drawn together. None if
            images are independent.
        group_seeds: treat trainings that differ only in their seed as one model.
        baseline: compare every model with this one only. None compares all pairs.
        draws: number of bootstrap draws. More are made where many differences are tested, see ``enough_draws``.
        changed: number of images to list that differ most, for each pair.
        force: compare scores of different protocols or data.

    Returns:
        Plain values: ``models`` with their scores, ``pairs`` with differences and verdicts, ``notes`` on what limits them, and ``forced``,
        the reasons that forbid this comparison.

    Raises:
        ConfigError: there are fewer than two models, or the scores are not comparable.
        DataError: an image has no group.
    """
    evaluations, repeated = distinct_evaluations(evaluations)
    baseline = repeated.get(baseline, baseline) if baseline is not None else None
    check_names([evaluation.name for evaluation in evaluations])
    forced = check_comparable(evaluations, force)
    classes = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.classes))
    members = [(item.name, [index]) for index, item in enumerate(evaluations)]
    grouped = seed_groups(evaluations) if group_seeds else members
    is_one_model = len(grouped) == 1  # its seeds are compared with each other
    members = members if is_one_model else grouped
    models = [scored_model(name, [evaluations[index] for index in indices], classes, group_by) for name, indices in members]
    pairs = _pairs([model.name for model in models], baseline)
    draws = enough_draws(models, len(pairs), draws)
    compared = compare_models(models, pairs, draws, is_one_model)
    rows = [_model_row(model, scores, classes) for model, scores in zip(models, compared.scores, strict=True)]
    for row, (_, indices) in zip(rows, members, strict=True):
        row["evaluations"] = [_evaluation_row(evaluations[index]) for index in indices]
    names = [evaluations[indices[0]].image_names for _, indices in members]
    return {
        "models": rows,
        "pairs": [_pair_row(pair, models, classes, names[pair.first], changed) for pair in compared.pairs],
        "seed_deviation": None if compared.spread is None else float(compared.spread.deviation[0]),
        "images": len(evaluations[0].counts),
        "groups": None if group_by is None else len(set(models[0].groups or ())),
        "group_by": group_by,
        "draws": draws,
        "notes": [*_repeated_notes(repeated), *_notes(evaluations, models, compared, is_one_model)],
        "forced": forced,
    }


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for fewer than two models or a name of several."""
    if len(names) < 2:
        raise ConfigError(
            f"a comparison needs two evaluations, found {len(names)}: {', '.join(names) or 'none'}. Add another run, file or folder."
        )
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two models are named {repeated[0]}. Rename one of the folders.")


def _pairs(names: Sequence[str], baseline: str | None) -> list[tuple[int, int]]:
    if baseline is None:
        return list(combinations(range(len(names)), 2))
    if baseline not in names:
        raise ConfigError(unknown_name_error("baseline", baseline, names))
    return [(index, names.index(baseline)) for index, name in enumerate(names) if name != baseline]


def scored_model(name: str, evaluations: Sequence[StoredEvaluation], classes: Sequence[str], pattern: str | None) -> ScoredModel:
    """Count the pixels of a model for a shared list of classes."""
    counts = []
    for evaluation in evaluations:
        aligned = np.zeros((*evaluation.counts.shape[:2], len(classes)), np.int64)
        aligned[..., [classes.index(name) for name in evaluation.classes]] = evaluation.counts
        counts.append(aligned)
    groups = None if pattern is None else _image_groups(evaluations[0], pattern)
    checksums = [evaluation.summary.get("checkpoint_sha256") for evaluation in evaluations]
    networks = tuple(map(str, checksums)) if all(checksums) else ()
    return ScoredModel(name, tuple(counts), str(evaluations[0].protocol.get("names")), groups, networks)


def _image_groups(evaluation: StoredEvaluation, pattern: str) -> list[str]:
    """Find the group of each image in its name."""
    if evaluation.image_names is None:
        raise ConfigError(f"group_by={pattern!r}: {evaluation.folder} holds no image names. Evaluate again with this version.")
    return group_names(evaluation.image_names, pattern, "group_by")


def _model_row(model: ScoredModel, scores: ResampledScores, classes: Sequence[str]) -> PlainDict:
    per_class = {name: {"iou": _number(scores.values[k]), "interval": scores.interval(k)} for k, name in enumerate(classes, 1)}
    return {"name": model.name, "miou": float(scores.values[0]), "interval": scores.interval(), "per_class": per_class}


def _evaluation_row(evaluation: StoredEvaluation) -> PlainDict:
    keys = ("miou", "split", "protocol_id", "checkpoint_sha256")
    own = {key: evaluation.summary.get(key) for key in keys}
    return {"name": evaluation.name, "folder": str(evaluation.folder), "seed": evaluation.training.get("seed")} | own


def _pair_row(
    pair: Pair, models: Sequence[ScoredModel], classes: Sequence[str], names: tuple[str, ...] | None, changed: int
) -> PlainDict:
    first, second = models[pair.first], models[pair.second]
    is_paired = first.image_set == second.image_set
    images = changed_images(first, second, changed) if is_paired else []
    return {
        "first": first.name,
        "second": second.name,
        **_difference_row(pair, 0, first.name, second.name),
        "per_class": {name: _difference_row(pair, k, first.name, second.name) for k, name in enumerate(classes, 1)},
        "changed_images": [
            {"image": printable(names[index]) if names else f"number {index}", "index": index, "first": before, "second": after}
            for index, before, after in images
        ],
    }


def _difference_row(pair: Pair, column: int, first: str, second: str) -> PlainDict:
    value, p_value, single = (_number(values[column]) for values in (pair.difference.values, pair.p_values, pair.single_p_values))
    better = first if value and value > 0 else second
    verdict = f"{better} is better" if pair.is_resolved(column) else NOT_RESOLVED
    interval = None if value is None else pair.difference.interval(column)
    return {"difference": value, "interval": interval, "p_value": p_value, "single_p_value": single, "verdict": verdict}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _repeated_notes(repeated: Mapping[str, str]) -> list[str]:
    return [f"{name} repeats the evaluation {first}, and was left out." for name, first in repeated.items()]


def _notes(
    evaluations: Sequence[StoredEvaluation], models: Sequence[ScoredModel], compared: Comparison, is_one_model: bool
) -> list[str]:
    """List what limits the verdicts."""
    notes = []
    if files := [evaluation.name for evaluation in evaluations if is_from_files(evaluation)]:
        notes.append(f"The protocol of {', '.join(files)} is unknown: its label maps were made by other code.")
    notes += version_notes(evaluations)
    if unfinished := [evaluation.name for evaluation in evaluations if evaluation.is_unfinished]:
        notes.append(f"Unfinished trainings count as models of their own, by their best scores so far: {', '.join(unfinished)}.")
    units, kind = int(min(scores.units[0] for scores in compared.scores)), "images" if models[0].groups is None else "groups"
    if units < MIN_IMAGES:
        notes.append(f"There are too few {kind} for intervals and verdicts: {units}, and {MIN_IMAGES} are needed.")
    elif compared.pairs and (tests := compared.pairs[0].hopeless_tests(len(compared.pairs))):
        notes.append(f"No difference {tests} can be resolved with {units} {kind}. Compare fewer models, or all with one baseline.")
    if is_one_model:
        notes.append("These are seeds of one model: their differences are compared with their own spread.")
    elif compared.spread is None:
        notes.append(
            "Each model has a single seed, so the verdicts are about these networks. Trained with other seeds, the ranking may differ."
        )
    elif compared.spread.freedom < AMPLE_FREEDOM:
        degrees = f"{compared.spread.freedom} degree{'s' if compared.spread.freedom > 1 else ''} of freedom"
        notes.append(
            f"So few seeds tell little about their spread ({degrees}), which widens the intervals. Train more runs of any of the models."
        )
    if compared.spread and (same := [pair for pair in compared.pairs if same_networks(models[pair.first], models[pair.second])]):
        listed = ", ".join(f"{models[pair.first].name} and {models[pair.second].name}" for pair in same)
        notes.append(f"These are evaluations of the same trained networks, so their verdicts are about these networks: {listed}.")
    if len({model.image_set for model in models}) > 1:
        notes.append("Models scored on different images are drawn independently, which widens the intervals.")
    return notes
