"""Reading files of weights, others' and our own, without running anything they name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from segzoo.registry import ConfigError

MODEL_FILE = "model.safetensors"
POINTERS = ("best", "last")  # one-line text files that name a step folder beside them
WRAPPERS = ("state_dict", "model")  # keys under which other libraries' checkpoints hold the weights


def locate(path: str | Path) -> Path:
    """The weight file that ``path`` means.

    Args:
        path: a weight file, a step folder, a run folder or its ``checkpoints`` (both mean the best step), or one of the
            pointers ``best`` and ``last``.

    Raises:
        ConfigError: if there is nothing, or nothing that fits, at ``path``.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist: give a .pth or .safetensors file, a run folder or a step folder")
    if path.is_file():
        return _follow(path) if path.name in POINTERS else path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    for pointer in (path / "checkpoints" / "best", path / "best"):
        if pointer.is_file():
            return _follow(pointer)
    raise ConfigError(
        f"the folder {path} holds neither {MODEL_FILE} nor checkpoints/best: give a step folder (<run>/checkpoints/<step>), "
        "or a run that has been evaluated"
    )


def _follow(pointer: Path) -> Path:
    step = pointer.read_text(encoding="utf-8").strip()
    file = pointer.parent / step / MODEL_FILE
    if Path(step).name != step or not file.is_file():
        raise ConfigError(
            f"{pointer} names the step folder {step!r}, but there is no {MODEL_FILE} in a folder of that name beside it"
        )
    return file


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU.

    Bare state dicts are taken as they are and those under ``state_dict`` or ``model`` are unwrapped; the prefixes that DDP
    (``module.``) and torch.compile (``_orig_mod.``) leave are removed. Pickles load with ``weights_only=True``.

    Args:
        path: as ``locate`` takes it.

    Raises:
        ConfigError: if there is no such file, it cannot be read, or it holds no tensors.
    """
    file = locate(path)
    try:
        content = _read(file)
    except Exception as error:  # each format has its own errors; all of them mean that this file cannot be used
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
    return dict(zip(_clean(tensors), tensors.values(), strict=True))


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


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True)


def _clean(names: Iterable[str]) -> list[str]:
    names = [name.replace("_orig_mod.", "") for name in names]
    while all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    return names


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What a checkpoint of segzoo says of itself (config, card, step); empty for any other file of weights."""
    file = locate(path)
    if file.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        header = opened.metadata() or {}
    return json.loads(header["segzoo"]) if "segzoo" in header else {}
