"""Class names of a checkpoint, read without torch."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open


def stored_classes(path: Path) -> tuple[str, ...] | None:
    """Read the class names in a ``.safetensors`` file.

    Returns:
        The names, or None where it states none. Damage is reported when the checkpoint is loaded.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="numpy") as reader:
            classes = json.loads(reader.metadata()["segzoo"])["dataset"]["classes"]
    except (SafetensorError, OSError, RuntimeError, TypeError, KeyError, ValueError, RecursionError):
        return None
    is_valid = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    return tuple(classes) if is_valid else None
