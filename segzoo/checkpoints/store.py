"""The checkpoint directories of a run: which are complete, which can be trusted, which one is best, which may go.

``checkpoints/<step>/`` counts once it holds ``manifest.json``, written last with the SHA-256 and size of the other files.
``checkpoints/last`` and ``checkpoints/best`` are text files with a checkpoint directory's name.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzoo.io import sha256, write_atomically
from segzoo.registry import ConfigError

FORMAT = 1
MANIFEST, MODEL = "manifest.json", "model.safetensors"
POINTERS = ("best", "last")


class CheckpointError(ConfigError):
    """A checkpoint that cannot be used; the message names the file, what is wrong with it and what to do."""


def resolve_weight_file(path: str | Path) -> Path:
    """Resolve a checkpoint path, as every setting that takes one understands it, to a weight file.

    Args:
        path: a weight file; a checkpoint directory; a run directory or its ``checkpoints``, which both mean the best step; or one of the
            pointers ``best`` and ``last``.

    Raises:
        CheckpointError: nothing, or nothing that fits, exists at ``path``.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"{path} does not exist; give a run directory, a checkpoint directory, or a .safetensors or .pth file"
        )
    if path.is_file():
        return _follow(path) / MODEL if path.name in POINTERS else path
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if path.name == "checkpoints":
        if not (path / "best").is_file():
            raise CheckpointError(f"{path.parent} has no best checkpoint yet; give one of its steps: {path}/<step>")
        return _follow(path / "best") / MODEL
    if not (path / MODEL).exists() and not (path / MANIFEST).exists():
        raise CheckpointError(
            f"{path} is neither a run directory nor a checkpoint directory: it holds no checkpoints/ and no {MODEL}"
        )
    return path / MODEL


def resolve_verified_file(path: str | Path) -> Path:
    """Resolve a checkpoint path to a weight file and verify the checkpoint directory it belongs to.

    A weight file that was moved out of its checkpoint directory has no manifest and is returned as it is.

    Raises:
        CheckpointError: as ``resolve``; or the checkpoint directory is unfinished, damaged, or of another format.
    """
    file = resolve_weight_file(path)
    alone = Path(path).is_file() and Path(path).name not in POINTERS
    covered = file.name == MODEL and (file.parent / MANIFEST).is_file()
    if (covered or not alone) and (faults := verify_checkpoint(file.parent)):
        raise CheckpointError(f"{'; '.join(faults)}. Use another checkpoint directory of the run.")
    return file


def split_run_and_step(path: str | Path) -> tuple[Path, Path | None]:
    """Split a checkpoint path into its run directory and its checkpoint directory, which is None where the path means the whole run.

    Raises:
        CheckpointError: as ``resolve``; or the weights lie outside a run, so that there is nothing to resume.
    """
    path = Path(path)
    run = path.parent if path.name == "checkpoints" else path
    if (run / "checkpoints").is_dir():
        return run, None
    step = resolve_weight_file(path).parent
    if step.parent.name != "checkpoints":
        raise CheckpointError(f"{path} lies outside a run directory, so it cannot be resumed; start from it by init.ckpt={path}")
    return step.parent.parent, step


def _follow(pointer: Path) -> Path:
    step = pointer.read_text(encoding="utf-8").strip()
    folder = pointer.parent / step
    if not step.isdigit() or not folder.is_dir():
        raise CheckpointError(f"{pointer} names step {step!r}, but {pointer.parent} has no such checkpoint directory")
    return folder


def step_dir(run: Path, step: int) -> Path:
    return run / "checkpoints" / str(step)


def list_checkpoints(run: Path, complete: bool = True) -> list[int]:
    """The steps that have a folder in a run, in ascending order; only those with a manifest unless told otherwise."""
    found = [path for path in (run / "checkpoints").glob("*/") if path.name.isdigit()]
    return sorted(int(path.name) for path in found if not complete or (path / MANIFEST).is_file())


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes a checkpoint directory's manifest, which makes the folder count."""
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / MANIFEST, lambda file: file.write(text.encode()))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint directory: ``format, step, files: {name: {sha256, bytes}}`` and, once evaluated, ``scores``.

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


def verify_checkpoint(folder: Path) -> list[str]:
    """Everything wrong with a checkpoint directory, one line each; empty if it can be trusted. Reads every byte of it."""
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
    """The newest checkpoint directory that passes ``verify`` (None if none does), and what is wrong with newer ones."""
    faults = []
    for step in reversed(list_checkpoints(run, complete=False)):
        folder = step_dir(run, step)
        wrong = verify_checkpoint(folder)
        if not wrong:
            return folder, faults
        faults += wrong
    return None, faults


def set_pointer(run: Path, word: str, step: int) -> None:
    """Makes ``best`` or ``last`` name a step."""
    write_atomically(run / "checkpoints" / word, lambda file: file.write(f"{step}\n".encode()))


def read_pointer(run: Path, word: str) -> Path | None:
    """The checkpoint directory ``best`` or ``last`` names; None if it names none yet."""
    path = run / "checkpoints" / word
    return path.parent / path.read_text().strip() if path.is_file() else None


def update_best(run: Path) -> int | None:
    """Points ``best`` at the complete step with the highest mIoU, the earliest of equals; None while there are no scores.

    A network that has been pruned further comes before any that has not, whatever they score.
    """
    scores = {step: read_manifest(step_dir(run, step)).get("scores") for step in list_checkpoints(run)}
    scored = {step: checkpoint_rank(found) for step, found in scores.items() if found}
    best = max(scored, key=scored.__getitem__) if scored else None
    if best is None:
        (run / "checkpoints" / "best").unlink(missing_ok=True)
    elif read_pointer(run, "best") != step_dir(run, best):
        set_pointer(run, "best", best)
    return best


def checkpoint_rank(scores: Mapping[str, Any]) -> tuple[int, float]:
    """By what checkpoints of a run are compared: stages of pruning behind them, then mIoU."""
    return scores.get("stages", 0), scores["miou"]


def delete_after(run: Path, step: int) -> None:
    """Removes checkpoint directories after ``step``, which were found damaged, and points ``best`` and ``last`` at what is left."""
    _remove(run, {newer for newer in list_checkpoints(run, complete=False) if newer > step})
    set_pointer(run, "last", step)
    update_best(run)


def delete_old(run: Path, keep: int) -> None:
    """Removes checkpoint directories but for the newest ``keep`` complete ones, ``best`` and ``last``; a failed removal is only reported."""
    spared = set(list_checkpoints(run)[-keep:]) | {
        int(folder.name) for word in ("best", "last") if (folder := read_pointer(run, word))
    }
    _remove(run, set(list_checkpoints(run, complete=False)) - spared)


def _remove(run: Path, unwanted: set[int]) -> None:
    for step in sorted(unwanted):
        try:
            (step_dir(run, step) / MANIFEST).unlink(missing_ok=True)  # first, so that a half-removed folder never counts
            shutil.rmtree(step_dir(run, step))
        except OSError as error:
            print(f"warning: an old checkpoint stays: {error}", file=sys.stderr, flush=True)
