"""Write checkpoints, crash-safe.

Everything is copied to CPU memory first, so that the files can be written while the model trains on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from segzoo.checkpoints.schema import FORMAT, MODEL, TRAINER, CheckpointError
from segzoo.checkpoints.store import set_pointer, step_dir, verify_checkpoint, write_manifest
from segzoo.io import to_plain_containers, write_atomically
from segzoo.registry import ConfigError
from segzoo.types import DatasetInfo, PlainDict, PlainMapping


def save_checkpoint(
    run_dir: Path,
    step: int,
    model: nn.Module,
    trainer: PlainDict,
    config: PlainDict,
    info: DatasetInfo,
    widths: dict[str, int],
) -> Path:
    """Write the checkpoint of one step and point ``last`` at it.

    Args:
        run_dir: the run directory.
        step: optimizer steps completed.
        model: its parameters and buffers are stored.
        trainer: plain containers and tensors only, so that ``torch.load(weights_only=True)`` can read them.
        config: the plain configuration that builds the model.
        info: dataset info of the training data.
        widths: output channels of pruned layers, by module name; empty otherwise.

    Returns:
        The checkpoint directory.

    Raises:
        OSError: the disk is full or not writable; older checkpoints are untouched.
        CheckpointError: the files read back differ from what was written.
    """
    return prepare_checkpoint(run_dir, step, model, trainer, config, info, widths)()


def prepare_checkpoint(
    run_dir: Path,
    step: int,
    model: nn.Module,
    trainer: PlainDict,
    config: PlainDict,
    info: DatasetInfo,
    widths: dict[str, int],
) -> Callable[[], Path]:
    """Copy everything that ``save_checkpoint`` writes to CPU memory.

    Returns:
        A function that writes the copy as ``save_checkpoint`` does, in any thread. Until then the model and its trainer may change.
    """
    metadata = {
        "format": FORMAT,
        "step": step,
        "config": to_plain_containers(config),
        "dataset": to_plain_containers(info.to_dict()),
        "widths": dict(widths),
    }
    return partial(_write_checkpoint, run_dir, _cpu_tensors(model), metadata, _cpu_copy(trainer))


def _write_checkpoint(run_dir: Path, tensors: dict[str, Tensor], metadata: PlainDict, trainer: PlainDict) -> Path:
    step = metadata["step"]
    directory = step_dir(run_dir, step)
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        MODEL: _write_hashed(directory / MODEL, lambda file: file.write(to_safetensors(tensors, {"segzoo": json.dumps(metadata)}))),
        TRAINER: _write_hashed(directory / TRAINER, lambda file: torch.save(trainer, file)),
    }
    write_manifest(directory, {"format": FORMAT, "step": step, "files": files})
    errors = verify_checkpoint(directory)
    if errors:
        raise CheckpointError(f"{directory} reads back differently than it was written: {'; '.join(errors)}. Check the disk.")
    set_pointer(run_dir, "last", step)
    return directory


class _HashedFile:
    """A file that is hashed while it is written.

    Attributes:
        error: of the disk, for which ``torch.save`` raises another one that hides it.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._digest, self._bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        self._digest.update(content)
        self._bytes += len(content)
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def entry(self) -> PlainDict:
        return {"sha256": self._digest.hexdigest(), "bytes": self._bytes}


def _write_hashed(path: Path, write: Callable[[BinaryIO], object]) -> PlainDict:
    """Write a file atomically and return its entry of the manifest."""
    entries = []

    def write_and_hash(file: BinaryIO) -> None:
        hashed = _HashedFile(file)
        try:
            write(cast(BinaryIO, hashed))
        except RuntimeError:
            if hashed.error is not None:
                raise hashed.error from None
            raise
        entries.append(hashed.entry())

    write_atomically(path, write_and_hash)
    return entries[0]


def model_bytes(model: nn.Module, metadata: PlainMapping, precision: Literal["fp32", "fp16"] = "fp32") -> bytes:
    """Encode weights and metadata as a safetensors file.

    Args:
        model: its parameters and buffers are stored.
        metadata: as ``save_checkpoint`` writes it.
        precision: ``fp16`` stores kernels in half the bytes. Vectors, such as running variances, stay fp32: they are few, and may exceed
            the range of fp16.

    Raises:
        CheckpointError: a kernel exceeds the range of fp16.
        ConfigError: the precision is another one.
    """
    if precision not in ("fp32", "fp16"):
        raise ConfigError(f"precision={precision!r}: weights are saved in fp32 or fp16")
    tensors = _cpu_tensors(model)
    if precision == "fp16":
        tensors = {name: tensor.half() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}
        if too_large := [name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]:
            raise CheckpointError(f"{', '.join(too_large[:3])}: fp16 holds numbers up to 65504, and these exceed it. Save in fp32.")
    return to_safetensors(tensors, {"segzoo": json.dumps(dict(metadata))})


def _cpu_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copy a state dict to contiguous CPU tensors.

    safetensors rejects channels-last tensors and shared memory.
    """
    return {name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in model.state_dict().items()}


def _cpu_copy(value: Any) -> Any:
    """Copy nested containers, and tensors to the CPU in their memory format."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _cpu_copy(item) for key, item in value.items()}
    return type(value)(map(_cpu_copy, value)) if isinstance(value, list | tuple) else value
