"""What a checkpoint holds, written so that a kill at any moment leaves the older ones whole, and checked before use.

``model.safetensors``: weights, with configuration and dataset info as one JSON string of metadata. ``trainer.pt``: what only
resuming needs. ``manifest.json``: checksums of both, later the scores (see steps.py).
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from segzoo.checkpoints import store as steps
from segzoo.checkpoints.store import MODEL, CheckpointError
from segzoo.io import sha256, to_plain_containers, write_atomically
from segzoo.types import DatasetInfo

if TYPE_CHECKING:
    pass


TRAINER = "trainer.pt"


def save_checkpoint(
    run: Path,
    step: int,
    model: nn.Module,
    trainer: dict[str, Any],
    config: dict[str, Any],
    info: DatasetInfo,
    widths: dict[str, int],
) -> Path:
    """Writes the checkpoint of one step and points ``last`` at it.

    Args:
        run: the run directory.
        step: optimizer steps done.
        model: whose parameters and buffers are stored.
        trainer: plain containers and tensors only, so that ``torch.load(weights_only=True)`` reads them.
        config: the plain configuration that builds the model.
        info: the info of the data it was trained on.
        widths: output channels of layers a pruner changed, by module name; empty otherwise.

    Returns:
        The checkpoint directory.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
        CheckpointError: what was read back differs from what was written.
    """
    folder = steps.step_dir(run, step)
    folder.mkdir(parents=True, exist_ok=True)
    meta = {
        "format": steps.FORMAT,
        "step": step,
        "config": to_plain_containers(config),
        "dataset": to_plain_containers(info.to_dict()),
        "widths": widths,
    }
    packed = io.BytesIO()
    torch.save(trainer, packed)
    contents = {MODEL: to_safetensors(_tensors(model), {"segzoo": json.dumps(meta)}), TRAINER: packed.getvalue()}
    sums = {}
    for name, content in contents.items():
        write_atomically(folder / name, lambda file, content=content: file.write(content))
        sums[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    steps.write_manifest(folder, {"format": steps.FORMAT, "step": step, "files": sums})
    faults = steps.verify_checkpoint(folder)
    if faults:
        raise CheckpointError(f"{folder} reads back differently than it was written: {'; '.join(faults)}. Check the disk.")
    steps.set_pointer(run, "last", step)
    return folder


def add_scores(folder: Path, scores: dict[str, Any]) -> None:
    """Adds the scores of an evaluation to a checkpoint directory's manifest."""
    steps.write_manifest(folder, steps.read_manifest(folder) | {"scores": to_plain_containers(scores)})


def read_scores(folder: Path) -> dict[str, Any] | None:
    """The scores in a checkpoint directory's manifest; None before its evaluation, or while there is no such checkpoint."""
    return steps.read_manifest(folder).get("scores") if (folder / steps.MANIFEST).is_file() else None


def read_model(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights and metadata of a segzoo checkpoint; run nothing that the file names.

    Args:
        path: as ``store.resolve`` takes it.

    Returns:
        The state dict on the CPU, and the metadata: ``format, step, config, info, widths``, and the file's ``sha256`` and ``path``.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, unfinished, newer than this code or not segzoo's.
    """
    file = steps.resolve_verified_file(path)
    state, meta = read_safetensors(file)
    if not meta:
        raise CheckpointError(f"{file} holds bare weights without segzoo's metadata; give it as init.ckpt= or backbone.weights=")
    return state, meta | {"sha256": sha256(file), "path": str(file)}


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read all tensors of a safetensors file and segzoo's metadata, which is empty for files of other libraries.

    Raises:
        CheckpointError: the file cannot be read, or a newer version wrote it.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}, _metadata(file, stored)  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from None


def read_metadata(path: Path | str) -> dict[str, Any]:
    """Read what a checkpoint says about itself without its tensors; empty for files of other libraries.

    Args:
        path: as ``store.resolve`` takes it.

    Raises:
        CheckpointError: as ``read_model``, except that files of other libraries are accepted.
    """
    file = steps.resolve_verified_file(path)
    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, framework="pt") as stored:
            return _metadata(file, stored)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from None


def _metadata(file: Path, stored: Any) -> dict[str, Any]:
    text = (stored.metadata() or {}).get("segzoo")
    if text is None:
        return {}
    meta = json.loads(text, object_hook=_whole_number_keys)
    steps.check_format(file, meta)
    return meta


def read_trainer(folder: Path) -> dict[str, Any]:
    """The resuming part of a checkpoint directory that passed ``verify``."""
    return torch.load(folder / TRAINER, map_location="cpu", weights_only=True)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    # safetensors rejects channels-last and shared memory: each tensor becomes a plain copy on the CPU
    return {name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in model.state_dict().items()}


def _whole_number_keys(table: dict[str, Any]) -> dict[Any, Any]:
    """JSON turns the keys of a ``label_map`` into strings; a table of nothing but whole numbers gets them back."""
    numbers = bool(table) and all(key.lstrip("-").isdigit() for key in table)
    return {int(key): value for key, value in table.items()} if numbers else table


def state_dict_hash(model: nn.Module) -> str:
    """A hash of a network's tensors: of their names, shapes and every value."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
