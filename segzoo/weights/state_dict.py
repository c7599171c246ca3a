"""Reading files of weights, others' and our own, without running anything they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from segzoo.checkpoints.serialization import read_safetensors
from segzoo.checkpoints.store import CheckpointError, resolve_verified_file
from segzoo.registry import ConfigError

WRAPPERS = ("state_dict", "model")  # keys under which other libraries' checkpoints hold the weights


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file by name, on the CPU."""
    return read_weights(path)[0]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a weight file by name, on the CPU, and the metadata of a segzoo checkpoint.

    Bare state dicts are taken as they are and those under ``state_dict`` or ``model`` are unwrapped; the prefixes that DDP
    (``module.``) and torch.compile (``_orig_mod.``) leave are removed. Pickles load with ``weights_only=True``.

    Args:
        path: as ``segzoo.checkpoints.store.resolve`` takes it.

    Returns:
        Tensors by name, and the metadata, which is empty for files of other libraries.

    Raises:
        ConfigError: if there is no such file, it is damaged, it cannot be read, or it holds no tensors.
    """
    file = resolve_verified_file(path)
    try:
        content, meta = _read(file)
    except CheckpointError:
        raise
    except Exception as error:  # each pickle format has its own errors; all of them mean that this file cannot be used
        raise ConfigError(
            f"{file} cannot be read as weights ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). "
            "Wanted: a .safetensors file, or a .pth file that holds tensors only (save model.state_dict() anew)."
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ConfigError(f"{file} holds no tensors by name; wanted a state dict, bare or under {' or '.join(WRAPPERS)!r}")
    return dict(zip(_clean(tensors), tensors.values(), strict=True)), meta


def is_published(word: str) -> bool:
    """Whether ``word`` is the name of an entry of torchvision's weights rather than a path."""
    return re.fullmatch(r"\w+_Weights\.\w+", word) is not None


def published(entry: str) -> Any:
    """Torchvision's weights of that name. Raises ConfigError when there are none."""
    from torchvision.models import get_weight

    try:
        return get_weight(entry)
    except (KeyError, ValueError):
        raise ConfigError(
            f"{entry}: torchvision publishes no such weights; one of its names is FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1"
        ) from None


def read_published(entry: str, asked: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights that torchvision publishes, downloaded once with their hash checked, and the names of their classes.

    Args:
        entry: such as ``FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1``.
        asked: the word that asked for them, ``setting=value``, for messages.

    Raises:
        ConfigError: torchvision has no such entry, or it could not be downloaded.
    """
    weights = published(entry)
    try:
        state = weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except URLError as error:
        setting = asked.partition("=")[0]
        raise ConfigError(
            f"{asked}: {weights.url} could not be downloaded ({error.reason}). Fetch the file elsewhere and set {setting}=<path>."
        ) from error
    return dict(state), tuple(name.strip("_") for name in weights.meta.get("categories", ()))


def _read(file: Path) -> tuple[Any, dict[str, Any]]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return torch.load(file, map_location="cpu", weights_only=True), {}


def _clean(names: Iterable[str]) -> list[str]:
    names = [name.replace("_orig_mod.", "") for name in names]
    while all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return names
