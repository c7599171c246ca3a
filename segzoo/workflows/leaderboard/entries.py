"""Scores that a leaderboard ranks, and directories without any."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from segzoo.checkpoints.paths import split_run_and_step
from segzoo.checkpoints.schema import CheckpointError
from segzoo.messages import format_override
from segzoo.types import PlainDict, PlainMapping
from segzoo.workflows.leaderboard.scan import FoundFolders, Unranked, read_config, read_json

SCORES = ("miou", "macc", "aacc", "fwiou")
DATA = ("names", "ground_truth")  # hashes of the images and labels in a protocol


@dataclass(frozen=True)
class Entry:
    """One evaluation of one model.

    Attributes:
        folder: the evaluation directory.
        run: its run directory, or its output directory if the training is not found.
        summary: its ``summary.json``.
        model, backbone: names, None if unknown.
        seed: seed of the training, None if unknown.
        parameters: number of the network's parameters, None if unknown.
    """

    folder: Path
    run: Path
    summary: PlainDict
    model: str | None = None
    backbone: str | None = None
    seed: int | None = None
    parameters: int | None = None

    @property
    def checkpoint(self) -> str | None:
        """SHA-256 of the evaluated model file."""
        return self.summary["checkpoint_sha256"]

    @property
    def group(self) -> str:
        """Text that only comparable scores share: protocol, data, split, classes."""
        same = (self.summary["protocol_id"], self.summary["protocol"], self.summary["split"], list(self.summary["per_class"]))
        return json.dumps(same, sort_keys=True)


def read_entries(found: FoundFolders) -> tuple[list[Entry], list[Unranked]]:
    """Read the scores of runs and evaluations.

    An evaluation that repeats the score of a checkpoint is left out.

    Returns:
        The scores, and every directory without a usable score.
    """
    entries, unranked = list[Entry](), list(found.unreadable)
    for run in found.runs:
        outcome = _read_run(run)
        (unranked if isinstance(outcome, Unranked) else entries).append(outcome)  # type: ignore[arg-type]
    known = {entry.checkpoint: entry for entry in reversed(entries)}
    scored = {_score(entry) for entry in entries if entry.checkpoint}
    for folder in found.evaluations:
        outcome = _read_evaluation(folder, known)
        if isinstance(outcome, Unranked):
            unranked.append(outcome)
        elif _score(outcome) not in scored:
            entries.append(outcome)
            scored |= {_score(outcome)} if outcome.checkpoint else set()
    return entries, unranked + [job for path in found.jobs if (job := _failed_job(path)) is not None]


def check_summary(content: object) -> PlainDict:
    """Return the content of a ``summary.json`` if its scores can be ranked.

    Raises:
        ValueError: a value is missing or impossible, or the images and labels are not identified.
    """
    if not isinstance(content, dict):
        raise ValueError("summary.json holds no table of scores")
    protocol, classes = content.get("protocol"), content.get("per_class")
    if not isinstance(protocol, dict) or not isinstance(content.get("protocol_id"), str) or not isinstance(classes, dict):
        raise ValueError("summary.json lacks protocol, protocol_id or per_class")
    if not all(_is_fraction(content.get(name)) for name in SCORES):
        raise ValueError(f"summary.json lacks {', '.join(SCORES)} as fractions")
    interval, checksum = content.get("miou_interval"), content.get("checkpoint_sha256")
    if interval is not None and not (isinstance(interval, list) and len(interval) == 2 and all(map(_is_fraction, interval))):
        raise ValueError("summary.json: miou_interval is not a pair of fractions")
    if not isinstance(checksum, str | None) or not isinstance(content.get("split"), str | None):
        raise ValueError("summary.json: checkpoint_sha256 or split is not text")
    if not all(isinstance(protocol.get(key), str) for key in ("data", *DATA)):
        raise ValueError("its scores do not identify their images and labels, as an earlier version wrote them")
    return content | {"miou_interval": interval, "checkpoint_sha256": checksum, "split": content.get("split")}


def _read_run(run: Path) -> Entry | Unranked:
    try:
        result = read_json(run / "result.json") if (run / "result.json").exists() else {}
        if not isinstance(result, dict):
            raise ValueError("result.json holds no table")
    except (ValueError, OSError) as error:
        return Unranked(run, f"broken: {error}")
    if result.get("error"):
        return Unranked(run, f"failed: {result['error']}")
    if not result.get("finished", "miou" in result):
        return Unranked(run, f"unfinished: {_progress(run)}")
    try:
        summary = check_summary(read_json(run / "eval" / "summary.json"))
    except ValueError as error:
        command = format_override("ckpt", str(run))
        return Unranked(run, f"no usable score: {error}. Evaluate it: python tools/eval.py {command}")
    return _described(Entry(run / "eval", run, summary, parameters=integer(result.get("params"))), read_config(run))


def _progress(run: Path) -> str:
    pointer = run / "checkpoints" / "last"
    with suppress(OSError, ValueError):
        if pointer.is_file():
            return f"its last checkpoint is of step {int(pointer.read_text()[:20])}"
    return "it holds no result. Its process failed early, was killed or is still running"


def _read_evaluation(folder: Path, known: dict[str | None, Entry]) -> Entry | Unranked:
    """Read an evaluation outside of a run.

    Args:
        folder: the evaluation directory.
        known: entries of runs by the checksum of their model files.
    """
    try:
        summary = check_summary(read_json(folder / "summary.json"))
    except ValueError as error:
        return Unranked(folder, f"no usable score: {error}. Evaluate again with tools/eval.py")
    entry, config = Entry(folder, folder, summary), read_config(folder)
    if summary["checkpoint_sha256"] and (same := known.get(summary["checkpoint_sha256"])):
        return replace(same, folder=folder, run=folder, summary=summary)
    with suppress(CheckpointError, OSError, TypeError):
        of_run = folder.name == "eval" and (folder.parent / "checkpoints").is_dir()
        run = folder.parent if of_run else split_run_and_step(config.get("ckpt"))[0]  # type: ignore[arg-type]
        config = read_config(run)
        with suppress(ValueError):
            result = read_json(run / "result.json")
            entry = replace(entry, parameters=integer(result.get("params")) if isinstance(result, dict) else None)
    return _described(entry, config)


def _described(entry: Entry, config: PlainMapping) -> Entry:
    """Add the names that a configuration gives."""
    sections = {key: config.get(key) for key in ("model", "backbone")}
    names = {key: str(section["name"]) for key, section in sections.items() if isinstance(section, dict) and "name" in section}
    return replace(entry, seed=integer(config.get("seed")), **names)


def _failed_job(path: Path) -> Unranked | None:
    """Job of a sweep that failed before it had a run directory."""
    try:
        result = read_json(path)
    except ValueError as error:
        return Unranked(path.parent, f"broken: {error}")
    error = result.get("error") if isinstance(result, dict) else None
    return Unranked(path.parent, f"failed: {error}") if error else None


def _score(entry: Entry) -> tuple[str | None, str, float]:
    return entry.checkpoint, entry.group, entry.summary["miou"]


def _is_fraction(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def integer(value: object) -> int | None:
    """Return a value if it is an integer, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
