"""Reasons why scores must not be compared, and models with several seeds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from segzoo.evaluation.label_files import FROM_FILES
from segzoo.registry import ConfigError
from segzoo.runs.config_diff import config_hash
from segzoo.types import PlainDict
from segzoo.workflows.compare.evaluations import StoredEvaluation

DATA_KEYS = ("data", "images", "names", "ground_truth")  # of a protocol; the others are settings of the inference


def check_comparable(evaluations: Sequence[StoredEvaluation], force: bool) -> list[str]:
    """Require one protocol, class list, label map and set of images.

    Args:
        evaluations: of all models.
        force: return the reasons instead of raising them.

    Raises:
        ConfigError: they differ. Every reason is named.
    """
    scored = [evaluation for evaluation in evaluations if not is_from_files(evaluation)] or list(evaluations)
    reference, reasons = scored[0], []
    for evaluation in evaluations:
        if found := mismatches(reference, evaluation):
            reasons.append(f"{evaluation.name} differs from {reference.name}: {'; '.join(found)}")
    if reasons and not force:
        raise ConfigError(
            f"{'. '.join(reasons)}. These scores are not comparable. Evaluate all models with the same settings on the same data: "
            "python tools/eval.py ckpt=<run directory>. To compare them anyway, set force=true, and the result will say so."
        )
    return reasons


def mismatches(reference: StoredEvaluation, other: StoredEvaluation) -> list[str]:
    """List what differs besides the models."""
    before, after = reference.protocol, other.protocol
    reasons = []
    if reference.classes != other.classes:
        reasons.append(f"classes {_difference(reference.classes, other.classes)}")
    if reference.summary.get("split") != other.summary.get("split"):
        reasons.append(f"split {reference.summary.get('split')} and {other.summary.get('split')}")
    if before.get("images") != after.get("images"):
        reasons.append(f"{before.get('images')} and {after.get('images')} images")
    elif before.get("names") != after.get("names"):
        reasons.append(f"other images (data fingerprints {before.get('names')} and {after.get('names')})")
    elif before.get("ground_truth") != after.get("ground_truth"):
        maps = [_label_map(evaluation) for evaluation in (reference, other)]
        cause = f", label_map {maps[0]} and {maps[1]}" if maps[0] != maps[1] else ""
        reasons.append(f"other labels (fingerprints {before.get('ground_truth')} and {after.get('ground_truth')}{cause})")
    if is_from_files(reference) or is_from_files(other):
        return reasons
    keys = [key for key in before | after if key not in DATA_KEYS and before.get(key) != after.get(key)]
    return reasons + [f"{key}={before.get(key)} and {key}={after.get(key)}" for key in keys]


def is_from_files(evaluation: StoredEvaluation) -> bool:
    """True for label maps of other code, whose protocol is unknown."""
    return FROM_FILES.items() <= evaluation.protocol.items()


def distinct_evaluations(evaluations: Sequence[StoredEvaluation]) -> tuple[list[StoredEvaluation], dict[str, str]]:
    """Leave out repeated evaluations of the same checkpoint.

    Returns:
        The others, and for the name of each that was left out, that of the one that it repeats. If only one were left, all are kept.
    """
    kept: dict[object, StoredEvaluation] = {}
    repeated = {}
    for evaluation in evaluations:
        summary = evaluation.summary
        identity = summary.get("checkpoint_sha256"), summary["protocol_id"], summary.get("split"), evaluation.counts.tobytes()
        first = kept.setdefault(identity if identity[0] else evaluation.folder, evaluation)
        if first is not evaluation:
            repeated[evaluation.name] = first.name
    return (list(kept.values()), repeated) if len(kept) > 1 else (list(evaluations), {})


def seed_groups(evaluations: Sequence[StoredEvaluation]) -> list[tuple[str, list[int]]]:
    """Group the evaluations of trainings that differ only in their seed.

    Returns:
        Name of each model, and the positions of its evaluations.
    """
    groups: dict[object, list[int]] = {}
    for index, evaluation in enumerate(evaluations):
        groups.setdefault(_recipe(evaluation) or index, []).append(index)
    models: list[tuple[str, list[int]]] = []
    for members in groups.values():
        seeds = [evaluations[index].training.get("seed") for index in members]
        if len(set(seeds)) < len(members):  # checkpoints of one training are no seeds
            models += [(evaluations[index].name, [index]) for index in members]
        else:
            models.append((_shared_name([evaluations[index].name for index in members]), members))
    names = [name for name, _ in models]
    return [(name if names.count(name) == 1 else evaluations[members[0]].name, members) for name, members in models]


def version_notes(evaluations: Sequence[StoredEvaluation]) -> list[str]:
    """Note scores of different versions, which may differ in themselves."""
    by_version: dict[str, list[str]] = {}
    for evaluation in evaluations:
        if evaluation.version is not None:
            by_version.setdefault(evaluation.version, []).append(evaluation.name)
    if len(by_version) < 2:
        return []
    listed = "; ".join(f"{version}: {', '.join(names)}" for version, names in sorted(by_version.items()))
    return [
        f"These scores come from several versions of segzoo, which may label images differently ({listed}). Evaluate all models again."
    ]


def _recipe(evaluation: StoredEvaluation) -> str | None:
    """Hash of the training without its seeds, and of the evaluation."""
    training = evaluation.training
    if "seed" not in training or evaluation.is_unfinished:
        return None
    kept: PlainDict = {key: value for key, value in training.items() if key != "seed"}
    if isinstance(pruner := kept.get("pruner"), dict):
        kept["pruner"] = {key: value for key, value in pruner.items() if key != "seed"}
    return config_hash(kept) + evaluation.summary["protocol_id"] + str(evaluation.summary.get("split"))


def _shared_name(names: Sequence[str]) -> str:
    """Name a model by what the names of its seeds share."""
    shared = re.sub(r"[\W_]*(seed|s)?[\W_\d]*$", "", os.path.commonprefix(list(names))) if len(names) > 1 else names[0]
    return shared or names[0]


def _difference(before: Sequence[str], after: Sequence[str]) -> str:
    missing, more = ([name for name in one if name not in other] for one, other in ((before, after), (after, before)))
    if not missing and not more:
        return f"in another order: {', '.join(before)} and {', '.join(after)}"
    return "; ".join(
        f"{len(names)} only in the {which}, such as {names[0]}" for names, which in ((missing, "first"), (more, "second")) if names
    )


def _label_map(evaluation: StoredEvaluation) -> object:
    sections = (evaluation.config.get("data"), evaluation.training.get("data"))
    maps = [section["label_map"] for section in sections if isinstance(section, dict) and "label_map" in section]
    return maps[0] if maps else None
