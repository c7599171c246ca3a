"""Checkpoint directories of a run: resolve, verify, rank and delete them.

``checkpoints/<step>/`` is complete once it has ``manifest.json``, which is written last with the SHA-256 and size of the other
files. ``checkpoints/last`` and ``checkpoints/best`` are pointers: text files with the name of a checkpoint directory.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from segzoo.io import sha256, write_atomically
from segzoo.registry import ConfigError

FORMAT = 1
MANIFEST, MODEL = "manifest.json", "model.safetensors"
Pointer = Literal["best", "last"]
POINTERS: tuple[Pointer, ...] = ("best", "last")


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used.

    The message names the file, the problem and what to do.
    """


def resolve_weight_file(path: str | Path) -> Path:
    """Resolve a checkpoint path to a weight file.

    Every setting that takes a checkpoint path uses this function.

    Args:
        path: a weight file; a checkpoint directory; a run directory or its ``checkpoints``, which both mean the best checkpoint; or
            one of the pointers ``best`` and ``last``.

    Raises:
        CheckpointError: ``path`` does not exist or holds no checkpoint.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; set a run directory, a checkpoint directory, or a .safetensors or .pth file")
    if path.is_file():
        return _follow(path) / MODEL if path.name in POINTERS else path
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if path.name == "checkpoints":
        if not (path / "best").is_file():
            raise CheckpointError(f"{path.parent} has no best checkpoint yet; set a checkpoint directory: {path}/<step>")
        return _follow(path / "best") / MODEL
    if not (path / MODEL).exists() and not (path / MANIFEST).exists():
        raise CheckpointError(
            f"{path} is neither a run directory nor a checkpoint directory: it holds neither checkpoints/ nor {MODEL}"
        )
    return path / MODEL


def resolve_verified_file(path: str | Path) -> Path:
    """Resolve a checkpoint path and verify its checkpoint directory.

    A weight file outside a checkpoint directory has no manifest and is returned unverified.

    Raises:
        CheckpointError: as ``resolve_weight_file``; or the checkpoint directory is unfinished, damaged, or of a newer format.
    """
    file = resolve_weight_file(path)
    is_weight_file = Path(path).is_file() and Path(path).name not in POINTERS
    has_manifest = file.name == MODEL and (file.parent / MANIFEST).is_file()
    if (has_manifest or not is_weight_file) and (errors := verify_checkpoint(file.parent)):
        raise CheckpointError(f"{'; '.join(errors)}. Use another checkpoint directory of the run.")
    return file


def split_run_and_step(path: str | Path) -> tuple[Path, Path | None]:
    """Split a checkpoint path into run directory and checkpoint directory.

    Returns:
        The run directory, and the checkpoint directory, which is None if ``path`` means the whole run.

    Raises:
        CheckpointError: as ``resolve_weight_file``; or the weights lie outside a run directory and cannot be resumed.
    """
    path = Path(path)
    run_dir = path.parent if path.name == "checkpoints" else path
    if (run_dir / "checkpoints").is_dir():
        return run_dir, None
    checkpoint_dir = resolve_weight_file(path).parent
    if checkpoint_dir.parent.name != "checkpoints":
        raise CheckpointError(f"{path} lies outside a run directory, so it cannot be resumed; start from it with init.ckpt={path}")
    return checkpoint_dir.parent.parent, checkpoint_dir


def _follow(pointer: Path) -> Path:
    step = pointer.read_text(encoding="utf-8").strip()
    directory = pointer.parent / step
    if not step.isdigit() or not directory.is_dir():
        raise CheckpointError(f"{pointer} names step {step!r}, but {pointer.parent} has no such checkpoint directory")
    return directory


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


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    """Write a checkpoint's manifest, which marks it as complete."""
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    write_atomically(directory / MANIFEST, lambda file: file.write(text.encode()))


def read_manifest(directory: Path) -> dict[str, Any]:
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


def check_format(path: Path, metadata: dict[str, Any]) -> None:
    """Check that this version of segzoo can read a file's format.

    Raises:
        CheckpointError: a newer version wrote the file.
    """
    if metadata.get("format", 0) > FORMAT:
        raise CheckpointError(f"{path}: format {metadata['format']}, but this version reads up to {FORMAT}; update segzoo")


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


def checkpoint_rank(scores: Mapping[str, Any]) -> tuple[int, float]:
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
