"""Resolution of checkpoint paths, as ``ckpt=`` and ``resume=`` take them.

Weight files are verified against the manifest of their checkpoint directory. The folder ``pretrained`` holds a checkpoint directory for
each network that segzoo comes with, under the name that stands for it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from segzoo.checkpoints.schema import MODEL, CheckpointError
from segzoo.checkpoints.store import MANIFEST, POINTERS, follow_pointer, verify_checkpoint
from segzoo.messages import did_you_mean

PRETRAINED = Path(__file__).with_name("pretrained")


def pretrained_names() -> list[str]:
    """List the names of the networks that segzoo comes with."""
    return sorted(path.name for path in PRETRAINED.iterdir() if path.is_dir())


def is_pretrained(path: str | Path) -> bool:
    """Return True if a path means a network that segzoo comes with.

    A file or folder of that name takes precedence.
    """
    return not os.path.exists(path) and str(path) in pretrained_names()


def resolve_weight_file(path: str | Path) -> Path:
    """Resolve a checkpoint path to a weight file.

    Every setting that takes a checkpoint path uses this function.

    Args:
        path: a weight file; a checkpoint directory; a run directory or its ``checkpoints``, which both mean the best checkpoint; or
            one of the pointers ``best`` and ``last``; or the name of a network that segzoo comes with, see ``is_pretrained``.

    Raises:
        CheckpointError: ``path`` does not exist or holds no checkpoint.
    """
    path = PRETRAINED / path if is_pretrained(path) else Path(path)
    if not os.path.exists(path):  # False for a name that is too long or holds a null byte
        names = [*pretrained_names(), *(os.listdir(path.parent) if os.path.isdir(path.parent) else ())]
        raise CheckpointError(
            f"{path} does not exist.{did_you_mean(path.name, names)} Set a run directory, a checkpoint directory, a .safetensors or .pth "
            f"file, or a pretrained network: {', '.join(pretrained_names())}"
        )
    if path.is_file():
        return follow_pointer(path) / MODEL if path.name in POINTERS else path
    if (path / "checkpoints").is_dir():
        path = path / "checkpoints"
    if path.name == "checkpoints":
        if not (path / "best").is_file():
            raise CheckpointError(f"{path.parent} has no best checkpoint yet; set a checkpoint directory: {path}/<step>")
        return follow_pointer(path / "best") / MODEL
    if not (path / MODEL).exists() and not (path / MANIFEST).exists():
        hidden = str(path) in pretrained_names()
        raise CheckpointError(
            f"{path} is neither a run directory nor a checkpoint directory: it holds neither checkpoints/ nor {MODEL}"
            + (f". It hides the pretrained network of this name, which is in {PRETRAINED / path}" if hidden else "")
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


def is_published(name: str) -> bool:
    """Return True if ``name`` looks like torchvision weights rather than a path."""
    return re.fullmatch(r"\w+_Weights\.\w+", name) is not None


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
