"""Read checkpoints, which are verified before they are used.

``model.safetensors`` holds the weights, with configuration and dataset info as one JSON string of metadata. ``trainer.pt`` holds
what only resuming needs. ``manifest.json`` holds checksums of both, and later the scores (see ``store.py``). A crash at any moment
leaves older checkpoints intact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from segzoo.checkpoints.paths import resolve_verified_file
from segzoo.checkpoints.schema import (
    TRAINER,
    CheckpointError,
    check_metadata,
    parse_json,
    restore_integer_keys,
)
from segzoo.checkpoints.store import MANIFEST, read_manifest, write_manifest
from segzoo.io import sha256, to_plain_containers
from segzoo.types import PlainDict

HALF = (torch.float16, torch.bfloat16)
MAX_WEIGHT = 1e20  # no training gets there, but a flipped bit of the exponent does


def add_scores(directory: Path, scores: PlainDict) -> None:
    """Add the scores of an evaluation to a checkpoint's manifest."""
    write_manifest(directory, read_manifest(directory) | {"scores": to_plain_containers(scores)})


def read_scores(directory: Path) -> PlainDict | None:
    """Read the scores from a checkpoint's manifest.

    Returns:
        The scores; None if the checkpoint does not exist or has not been evaluated.
    """
    return read_manifest(directory).get("scores") if (directory / MANIFEST).is_file() else None


def read_model(path: Path | str) -> tuple[dict[str, Tensor], PlainDict]:
    """Read the weights and metadata of a segzoo checkpoint.

    Nothing that the file names is imported or executed.

    Args:
        path: as ``paths.resolve_weight_file`` takes it.

    Returns:
        The state dict on the CPU, and the metadata ``format, step, config, dataset, widths``, plus the file's ``sha256`` and
        ``path``.

    Raises:
        CheckpointError: the checkpoint does not exist, is damaged, unfinished, newer than this code or not from segzoo.
    """
    file = resolve_verified_file(path)
    state, metadata = read_safetensors(file)
    if not metadata:
        raise CheckpointError(f"{file} holds bare weights without segzoo's metadata; load it with init.ckpt= or backbone.weights=")
    return state, metadata | {"sha256": sha256(file), "path": str(file)}


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], PlainDict]:
    """Read all tensors of a safetensors file and its segzoo metadata.

    Tensors in fp16 and bf16 are returned in fp32. The metadata is empty for files of other libraries.

    Raises:
        CheckpointError: the file cannot be read, its metadata is invalid or of another format, or as ``check_tensors``.
    """
    with _open(file) as reader:
        tensors, metadata = {name: reader.get_tensor(name) for name in reader.keys()}, _metadata(file, reader)  # noqa: SIM118 (no mapping)
    check_tensors(file, tensors)
    return {name: tensor.float() if tensor.dtype in HALF else tensor for name, tensor in tensors.items()}, metadata


def check_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors hold plausible weights.

    Raises:
        CheckpointError: one is quantized, sparse or without values, or holds NaN, infinity or numbers above ``MAX_WEIGHT``.
    """
    for name, tensor in tensors.items():
        is_quantized = tensor.is_quantized or (
            name.endswith("weight") and not tensor.is_floating_point() and not tensor.is_complex()
        )
        if is_quantized or tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex():
            kind = "quantized" if is_quantized else "sparse, complex or without values"
            raise CheckpointError(f"{file}: tensor {name} is {kind}. Save the weights of the float model: model.state_dict().")
        if tensor.is_floating_point() and tensor.numel() > 0:
            smallest, largest = torch.aminmax(tensor if tensor.element_size() > 1 else tensor.float())
            if not (smallest >= -MAX_WEIGHT and largest <= MAX_WEIGHT):  # NaN compares as false
                raise CheckpointError(
                    f"{file}: tensor {name} has values from {smallest:g} to {largest:g}, which no working network has. The training diverged, "
                    "or the file is damaged. Use another checkpoint."
                )


def read_metadata(path: Path | str) -> PlainDict:
    """Read a checkpoint's metadata without its tensors.

    Args:
        path: as ``paths.resolve_weight_file`` takes it.

    Returns:
        The metadata, empty for files of other libraries.

    Raises:
        CheckpointError: as ``read_model``, except that files of other libraries are accepted.
    """
    file = resolve_verified_file(path)
    if file.suffix != ".safetensors":
        return {}
    with _open(file) as reader:
        return _metadata(file, reader)


@contextmanager
def _open(file: Path) -> Iterator[safe_open]:
    try:
        with safe_open(file, framework="pt") as reader:
            yield reader
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from None


def _metadata(file: Path, reader: safe_open) -> PlainDict:
    text = (reader.metadata() or {}).get("segzoo")
    if text is None:
        return {}
    metadata = parse_json(file, text, restore_integer_keys)
    check_metadata(file, metadata)
    return metadata


def read_trainer(directory: Path) -> PlainDict:
    """Read the trainer state of a checkpoint directory.

    Raises:
        CheckpointError: the file cannot be read.
    """
    file = directory / TRAINER
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each kind of damage raises its own
        raise CheckpointError(
            f"{file} cannot be read ({type(error).__name__}). Resume from another checkpoint directory."
        ) from error


def state_dict_hash(model: nn.Module) -> str:
    """Hash the names, shapes and values of a network's tensors."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
