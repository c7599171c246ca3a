"""Read weight files without executing code from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.error import URLError

import torch
from torch import Tensor

from segzoo.checkpoints.paths import resolve_verified_file
from segzoo.checkpoints.schema import CheckpointError
from segzoo.checkpoints.serialization import check_tensors, read_safetensors
from segzoo.registry import ConfigError
from segzoo.types import PlainDict

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# keys under which training code stores weights; averaged weights come first because their scores are the published ones
EMA_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "params_ema")
KEYS = (*EMA_KEYS, "state_dict", "model_state_dict", "model_state", "model", "module", "network", "net", "params")
PREFIXES = ("module.", "model.", "network.", "net.")  # of DDP, and of modules that hold the network


class Weights(NamedTuple):
    """Contents of a weight file.

    Attributes:
        tensors: by name, on the CPU.
        metadata: that of a segzoo checkpoint, empty for files of other libraries.
        key: dotted key of the state dict in the file, empty if it is stored directly.
    """

    tensors: dict[str, Tensor]
    metadata: PlainDict
    key: str = ""


def read_weights(path: str | Path) -> Weights:
    """Read the tensors of a weight file and its segzoo metadata.

    A state dict may be stored directly or under one of the usual keys, of which moving averages are preferred. Prefixes that DDP,
    torch.compile or an enclosing module add to all names are removed. Pickles are loaded with ``weights_only=True``.

    Args:
        path: as ``segzoo.checkpoints.paths.resolve_weight_file`` takes it.

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
            f"{file} cannot be read as weights ({_cause(file, error)}). "
            "Expected a .safetensors file, or a .pth file that holds tensors only (save it again from model.state_dict())."
        ) from error
    tensors, key = _find_state_dict(content)
    if not tensors:
        raise ConfigError(
            f"{file} holds no tensors by name. Expected a state dict, stored directly or under a key such as 'state_dict'."
        )
    check_tensors(file, tensors)
    return Weights(dict(zip(_strip_prefixes(tensors), tensors.values(), strict=True)), meta, key)


def _cause(file: Path, error: Exception) -> str:
    """Describe why a file is unreadable, without advice to execute it."""
    if isinstance(error, RuntimeError | OSError):
        return str(error).partition("\n")[0]
    found = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
    if found:
        return f"it holds an object of {found[1]}"
    with open(file, "rb") as opened:
        is_saved = opened.read(2).startswith((b"PK", b"\x80"))  # a zip archive or a bare pickle
    return "it holds more than tensors, or is of another version of pickle" if is_saved else "it is not a file of torch.save"


def published(entry: str) -> WeightsEnum:
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


def _read(file: Path) -> tuple[object, PlainDict]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)
    return torch.load(file, map_location="cpu", weights_only=True), {}


def _find_state_dict(content: object) -> tuple[dict[str, Tensor], str]:
    """Find the tensors by name, and the dotted key that holds them."""
    if not isinstance(content, Mapping):
        return {}, ""
    for key in KEYS:
        tensors, inner = _find_state_dict(content.get(key))
        if tensors:
            return tensors, f"{key}.{inner}" if inner else key
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}, ""


def _strip_prefixes(names: Iterable[str]) -> list[str]:
    names = [name.replace("_orig_mod.", "") for name in names]
    while dotted := [name for name in names if "." in name]:
        prefix = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in dotted)), None)
        if prefix is None:
            break
        names = [name.removeprefix(prefix) for name in names]
    return names
