"""The step folders of a run: which are complete, which can be trusted, which one is best, which may go.

``checkpoints/<step>/`` counts once it holds ``manifest.json``, written last with the SHA-256 and size of the other files.
``checkpoints/last`` and ``checkpoints/best`` are text files with a step folder's name.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzoo.files import sha256, write_atomically

FORMAT = 1
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what is wrong with it and what to do."""


def step_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / str(step)


def steps(run: Path, complete: bool = True) -> list[int]:
    """The steps that have a folder in a run, in ascending order; only those with a manifest unless told otherwise."""
    found = [path for path in (run / "checkpoints").glob("*/") if path.name.isdigit()]
    return sorted(int(path.name) for path in found if not complete or (path / MANIFEST).is_file())


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes a step folder's manifest, which makes the folder count."""
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / MANIFEST, lambda file: file.write(text.encode()))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a step folder: ``format, step, files: {name: {sha256, bytes}}`` and, once evaluated, ``scores``.

    Raises:
        CheckpointError: it is missing, unreadable or of a newer format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is unfinished: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{path} is not a checkpoint's manifest: it names no files")
    check_format(path, manifest)
    return manifest


def check_format(path: Path, head: dict[str, Any]) -> None:
    """Raises CheckpointError if a file was written by a newer version than this code can read."""
    if head.get("format", 0) > FORMAT:
        raise CheckpointError(f"{path}: format {head['format']}, this version reads up to {FORMAT}; update segzoo")


def verify(folder: Path) -> list[str]:
    """Everything wrong with a step folder, one line each; empty if it can be trusted. Reads every byte of it."""
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return [str(error)]
    faults = []
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            faults.append(f"{path} is missing")
        elif path.stat().st_size != wanted["bytes"]:
            faults.append(f"{path} holds {path.stat().st_size} bytes where {wanted['bytes']} were written")
        elif sha256(path) != wanted["sha256"]:
            faults.append(f"{path} was changed or damaged after it was written: its checksum differs")
    return faults


def latest_valid(run: Path) -> tuple[Path | None, list[str]]:
    """The newest step folder that passes ``verify`` (None if none does), and what is wrong with newer ones."""
    faults = []
    for step in reversed(steps(run, complete=False)):
        folder = step_folder(run, step)
        wrong = verify(folder)
        if not wrong:
            return folder, faults
        faults += wrong
    return None, faults


def point(run: Path, word: str, step: int) -> None:
    """Makes ``best`` or ``last`` name a step."""
    write_atomically(run / "checkpoints" / word, lambda file: file.write(f"{step}\n".encode()))


def pointed(run: Path, word: str) -> Path | None:
    """The step folder ``best`` or ``last`` names; None if it names none yet."""
    path = run / "checkpoints" / word
    return path.parent / path.read_text().strip() if path.is_file() else None


def move_best(run: Path) -> int | None:
    """Points ``best`` at the complete step with the highest mIoU, the earliest of equals; None while there are no scores.

    A network that has been pruned further comes before any that has not, whatever they score.
    """
    scores = {step: read_manifest(step_folder(run, step)).get("scores") for step in steps(run)}
    scored = {step: rank_of(found) for step, found in scores.items() if found}
    best = max(scored, key=scored.__getitem__) if scored else None
    if best is None:
        (run / "checkpoints" / "best").unlink(missing_ok=True)
    elif pointed(run, "best") != step_folder(run, best):
        point(run, "best", best)
    return best


def rank_of(scores: Mapping[str, Any]) -> tuple[int, float]:
    """By what checkpoints of a run are compared: stages of pruning behind them, then mIoU."""
    return scores.get("stages", 0), scores["miou"]


def discard_newer(run: Path, step: int) -> None:
    """Removes step folders after ``step``, which were found damaged, and points ``best`` and ``last`` at what is left."""
    _remove(run, {newer for newer in steps(run, complete=False) if newer > step})
    point(run, "last", step)
    move_best(run)


def drop_old(run: Path, keep: int) -> None:
    """Removes step folders but for the newest ``keep`` complete ones, ``best`` and ``last``; a failed removal is only reported."""
    spared = set(steps(run)[-keep:]) | {int(folder.name) for word in ("best", "last") if (folder := pointed(run, word))}
    _remove(run, set(steps(run, complete=False)) - spared)


def _remove(run: Path, unwanted: set[int]) -> None:
    for step in sorted(unwanted):
        try:
            (step_folder(run, step) / MANIFEST).unlink(missing_ok=True)  # first, so that a half-removed folder never counts
            shutil.rmtree(step_folder(run, step))
        except OSError as error:
            print(f"warning: an old checkpoint stays: {error}", file=sys.stderr, flush=True)
