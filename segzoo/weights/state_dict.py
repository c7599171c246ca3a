"""Read weight files without executing code from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from segzoo.checkpoints.paths import resolve_verified_file
from segzoo.checkpoints.schema import CheckpointError
from segzoo.checkpoints.serialization import check_tensors, read_safetensors
from segzoo.registry import ConfigError
from segzoo.types import PlainDict

WRAPPER_KEYS = ("state_dict", "model")  # under which other libraries' checkpoints store the weights


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a weight file by name, on the CPU."""
    return read_weights(path)[0]


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], PlainDict]:
    """Read the tensors of a weight file and its segzoo metadata.

    A state dict may be stored directly, or under the key ``state_dict`` or ``model``. The prefixes added by DDP (``module.``) and
    torch.compile (``_orig_mod.``) are removed. Pickles are loaded with ``weights_only=True``.

    Args:
        path: as ``segzoo.checkpoints.paths.resolve_weight_file`` takes it.

    Returns:
        Tensors by name on the CPU, and the metadata, which is empty for files of other libraries.

    Raises:
        ConfigError: the file does not exist, is damaged, cannot be read, or holds no tensors.
    """
    file = resolve_verified_file(path)
    try:
        content, meta = _read(file)
    except CheckpointError:
        raise
    except Exception as error:  # each pickle format raises its own errors
        raise ConfigError(
            f"{file} cannot be read as weights ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). "
            "Expected a .safetensors file, or a .pth file that holds tensors only (save it again from model.state_dict())."
        ) from error
    for key in WRAPPER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ConfigError(
            f"{file} holds no tensors by name. Expected a state dict, bare or under {' or '.join(map(repr, WRAPPER_KEYS))}."
        )
    check_tensors(file, tensors)
    return dict(zip(_strip_prefixes(tensors), tensors.values(), strict=True)), meta


def published(entry: str) -> Any:
    """Look up weights that torchvision publishes.

    Raises:
        ConfigError: torchvision has no such entry.
    """
    from torchvision.models import get_weight

    try:
        return get_weight(entry)
    except (KeyError, ValueError):
        raise ConfigError(
            f"{entry}: torchvision publishes no such weights. A valid name is FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1."
        ) from None


def read_published(entry: str, setting: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Download weights that torchvision publishes, once, and check their hash.

    Args:
        entry: such as ``FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1``.
        setting: as the user wrote it, ``<key>=<value>``, for messages.

    Returns:
        The tensors by name, and the class names.

    Raises:
        ConfigError: torchvision has no such entry, or the download failed.
    """
    weights = published(entry)
    try:
        state = weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except URLError as error:
        key = setting.partition("=")[0]
        raise ConfigError(
            f"{setting}: {weights.url} could not be downloaded ({error.reason}). Download the file elsewhere and set {key}=<path>."
        ) from error
    return dict(state), tuple(name.strip("_") for name in weights.meta.get("categories", ()))


def _read(file: Path) -> tuple[Any, PlainDict]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return torch.load(file, map_location="cpu", weights_only=True), {}


def _strip_prefixes(names: Iterable[str]) -> list[str]:
    names = [name.replace("_orig_mod.", "") for name in names]
    while all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return names
