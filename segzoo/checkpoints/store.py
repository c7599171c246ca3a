"""Checkpoint directories of a run: verify, rank and delete them.

``checkpoints/<step>/`` is complete once it has ``manifest.json``, which is written last with the SHA-256 and size of the other
files. ``checkpoints/last`` and ``checkpoints/best`` are pointers: text files with the name of a checkpoint directory.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from segzoo.checkpoints.schema import MODEL, TRAINER, CheckpointError, check_manifest, parse_json
from segzoo.io import sha256, write_atomically
from segzoo.types import PlainDict, PlainMapping

MANIFEST = "manifest.json"
Pointer = Literal["best", "last"]
POINTERS: tuple[Pointer, ...] = ("best", "last")


def step_dir(run_dir: Path, step: int) -> Path:
    """Checkpoint directory of a step."""
    return run_dir / "checkpoints" / str(step)


def list_checkpoints(run_dir: Path, complete: bool = True) -> list[int]:
    """List the steps that have a checkpoint directory, in ascending order.

    Args:
        run_dir: the run directory.
        complete: skip directories without a manifest.
    """
    directories = [path for path in (run_dir / "checkpoints").glob("*/") if _is_step(path.name)]
    return sorted(int(path.name) for path in directories if not complete or (path / MANIFEST).is_file())


def write_manifest(directory: Path, manifest: PlainDict) -> None:
    """Write a checkpoint's manifest, which marks it as complete."""
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    write_atomically(directory / MANIFEST, lambda file: file.write(text.encode()))


def read_manifest(directory: Path) -> PlainDict:
    """Read the manifest of a checkpoint directory.

    Returns:
        ``format, step, files: {name: {sha256, bytes}}`` and, once evaluated, ``scores``.

    Raises:
        CheckpointError: the manifest is missing, unreadable, invalid or of another format.
    """
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is unfinished: it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    manifest = parse_json(path, content)
    check_manifest(path, manifest)
    return manifest


def verify_checkpoint(directory: Path) -> list[str]:
    """List every error of a checkpoint directory, one line each.

    Reads and hashes every file. The list is empty if the checkpoint is valid.
    """
    try:
        manifest = read_manifest(directory)
    except CheckpointError as error:
        return [str(error)]
    errors = []
    for name, expected in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            errors.append(f"{path} is missing")
        elif path.stat().st_size != expected["bytes"]:
            errors.append(f"{path} holds {path.stat().st_size} bytes, but {expected['bytes']} were written")
        elif sha256(path) != expected["sha256"]:
            errors.append(f"{path} was changed or damaged after it was written: its checksum differs")
    return errors


def latest_valid(run_dir: Path) -> tuple[Path | None, list[str]]:
    """Find the newest valid checkpoint directory.

    Returns:
        The directory, or None if no checkpoint is valid, and the errors of newer ones.
    """
    errors = []
    for step in reversed(list_checkpoints(run_dir, complete=False)):
        directory = step_dir(run_dir, step)
        step_errors = verify_checkpoint(directory)
        if not step_errors:
            return directory, errors
        errors += step_errors
    return None, errors


def set_pointer(run_dir: Path, name: Pointer, step: int) -> None:
    """Point ``best`` or ``last`` at a step."""
    write_atomically(run_dir / "checkpoints" / name, lambda file: file.write(f"{step}\n".encode()))


def read_pointer(run_dir: Path, name: Pointer) -> Path | None:
    """Checkpoint directory that ``best`` or ``last`` names, or None."""
    try:
        return follow_pointer(run_dir / "checkpoints" / name)
    except CheckpointError:
        return None


def follow_pointer(pointer: Path) -> Path:
    """Return the checkpoint directory that a pointer file names.

    Raises:
        CheckpointError: the file cannot be read, or holds anything but the name of an existing checkpoint directory.
    """
    try:
        step = pointer.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{pointer} cannot be read as the name of a checkpoint directory: {error}") from None
    if not _is_step(step) or not (pointer.parent / step).is_dir():
        raise CheckpointError(f"{pointer} names step {step[:40]!r}, but {pointer.parent} has no such checkpoint directory")
    return pointer.parent / step


def _is_step(name: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", name) is not None


def update_best(run_dir: Path) -> int | None:
    """Point ``best`` at the complete checkpoint of the highest rank.

    The earliest wins a tie. A checkpoint with an invalid manifest counts as one without scores.

    Returns:
        Its step, or None if no checkpoint has scores.
    """
    ranks = {}
    for step in list_checkpoints(run_dir):
        with suppress(CheckpointError):
            if scores := read_manifest(step_dir(run_dir, step)).get("scores"):
                ranks[step] = checkpoint_rank(scores)
    best = max(ranks, key=ranks.__getitem__) if ranks else None
    if best is None:
        (run_dir / "checkpoints" / "best").unlink(missing_ok=True)
    elif read_pointer(run_dir, "best") != step_dir(run_dir, best):
        set_pointer(run_dir, "best", best)
    return best


def checkpoint_rank(scores: PlainMapping) -> tuple[int, float]:
    """Sort key of a run's checkpoints: completed pruning stages, then mIoU.

    A network that was pruned further ranks above all that were not, whatever their scores.
    """
    return scores.get("stages", 0), scores["miou"]


def delete_after(run_dir: Path, step: int) -> None:
    """Delete checkpoints after ``step``, and update ``best`` and ``last``.

    Resuming calls this when newer checkpoints are damaged.
    """
    _delete(run_dir, {newer for newer in list_checkpoints(run_dir, complete=False) if newer > step})
    set_pointer(run_dir, "last", step)
    update_best(run_dir)


def delete_newest(run_dir: Path) -> None:
    """Delete the newest checkpoint if there is an older one."""
    steps = list_checkpoints(run_dir)
    if len(steps) > 1:
        delete_after(run_dir, steps[-2])


def delete_old(run_dir: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, ``best`` and ``last``.

    Incomplete ones do not count and are deleted too. A failed deletion prints a warning.
    """
    kept = set(list_checkpoints(run_dir)[-keep:])
    kept |= {int(directory.name) for name in POINTERS if (directory := read_pointer(run_dir, name))}
    _delete(run_dir, set(list_checkpoints(run_dir, complete=False)) - kept)


def foreign_file(run_dir: Path) -> Path | None:
    """Find a file among the checkpoints that no run of segzoo writes."""
    for step in list_checkpoints(run_dir, complete=False):
        for path in sorted(step_dir(run_dir, step).iterdir()):
            if path.name not in (MANIFEST, MODEL, TRAINER) and ".tmp." not in path.name:
                return path
    return None


def _delete(run_dir: Path, steps: set[int]) -> None:
    for step in sorted(steps):
        try:
            (step_dir(run_dir, step) / MANIFEST).unlink(missing_ok=True)  # first, so that a half-deleted directory is not valid
            shutil.rmtree(step_dir(run_dir, step))
        except OSError as error:
            print(f"warning: could not delete an old checkpoint: {error}", file=sys.stderr, flush=True)
