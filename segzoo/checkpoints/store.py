"""Checkpoint directories of a run: verify, rank and delete them.

``checkpoints/<step>/`` is complete once it has ``manifest.json``, which is written last with the SHA-256 and size of the other
files. ``checkpoints/last`` and ``checkpoints/best`` are pointers: text files with the name of a checkpoint directory.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Literal

from segzoo.io import sha256, write_atomically
from segzoo.registry import ConfigError
from segzoo.types import PlainDict, PlainMapping

FORMAT = 2  # 1 had other names for settings and metadata
MANIFEST, MODEL = "manifest.json", "model.safetensors"
Pointer = Literal["best", "last"]
POINTERS: tuple[Pointer, ...] = ("best", "last")


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used.

    The message names the file, the problem and what to do.
    """


def step_dir(run_dir: Path, step: int) -> Path:
    """Checkpoint directory of a step."""
    return run_dir / "checkpoints" / str(step)


def list_checkpoints(run_dir: Path, complete: bool = True) -> list[int]:
    """List the steps that have a checkpoint directory, in ascending order.

    Args:
        run_dir: the run directory.
        complete: skip directories without a manifest.
    """
    directories = [path for path in (run_dir / "checkpoints").glob("*/") if path.name.isdigit()]
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
        CheckpointError: the manifest is missing, unreadable or of a newer format.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is unfinished: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise CheckpointError(f"{path} is not a checkpoint's manifest: it names no files")
    check_format(path, manifest)
    return manifest


def check_format(path: Path, metadata: PlainDict) -> None:
    """Check that this version of segzoo can read a file's format.

    Raises:
        CheckpointError: a version with another format wrote the file.
    """
    written = metadata.get("format", 0)
    if written > FORMAT:
        raise CheckpointError(f"{path}: format {written}, but this version reads format {FORMAT}; update segzoo")
    if written < FORMAT:
        raise CheckpointError(
            f"{path}: format {written} of an earlier segzoo, whose settings had other names; this version reads format {FORMAT}. Train "
            "the model again, or load it with the version that wrote it"
        )


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
    path = run_dir / "checkpoints" / name
    return path.parent / path.read_text().strip() if path.is_file() else None


def update_best(run_dir: Path) -> int | None:
    """Point ``best`` at the complete checkpoint of the highest rank.

    The earliest wins a tie.

    Returns:
        Its step, or None if no checkpoint has scores.
    """
    manifests = {step: read_manifest(step_dir(run_dir, step)) for step in list_checkpoints(run_dir)}
    ranks = {step: checkpoint_rank(manifest["scores"]) for step, manifest in manifests.items() if manifest.get("scores")}
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


def _delete(run_dir: Path, steps: set[int]) -> None:
    for step in sorted(steps):
        try:
            (step_dir(run_dir, step) / MANIFEST).unlink(missing_ok=True)  # first, so that a half-deleted directory is not valid
            shutil.rmtree(step_dir(run_dir, step))
        except OSError as error:
            print(f"warning: could not delete an old checkpoint: {error}", file=sys.stderr, flush=True)
