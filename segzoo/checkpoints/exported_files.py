"""Exported files, where a tool takes them in place of a checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from segzoo.io import sha256
from segzoo.registry import ConfigError

EXPORTED_SUFFIXES = (".onnx", ".xml", ".zip")
EXPORTED_NAMES = ("model.onnx", "model.xml")
RECORD, CARD = "export.json", "card.json"  # of an output directory of tools/export.py, and of an unpacked bundle


def find_exported_file(path: str | Path) -> Path | None:
    """Find the exported file that a path means.

    Args:
        path: an ``.onnx`` or ``.xml`` file, a bundle (a folder or its ``.zip``), or an output directory of ``tools/export.py``.

    Returns:
        The file, or None for any other path, such as a checkpoint.
    """
    path = Path(path)
    if path.suffix.lower() in EXPORTED_SUFFIXES and os.path.isfile(path):
        return path
    return next((path / name for name in EXPORTED_NAMES if os.path.isfile(path / name)), None)


def file_checksums(file: Path) -> dict[str, str]:
    """SHA-256 of an exported file, and of its weights in OpenVINO.

    Returns:
        file name -> checksum
    """
    files = [file, file.with_suffix(".bin")] if file.suffix.lower() == ".xml" else [file]
    return {each.name: sha256(each) for each in files if each.exists()}


def check_checksums(file: Path) -> dict[str, str]:
    """Compare an exported file with the checksums next to it.

    A file that was renamed or moved alone has none.

    Returns:
        ``file_checksums``

    Raises:
        ConfigError: it is damaged or was replaced.
    """
    actual = file_checksums(file)
    found = _read_entry(file.with_name(RECORD), "sha256")
    recorded: dict[str, object] = dict(found) if isinstance(found, dict) else {}  # else the file is another program's
    if checksum := _read_entry(file.with_name(CARD), "model_sha256"):
        recorded.setdefault("model.onnx", checksum)
    for name in actual:
        if name in recorded and recorded[name] != actual[name]:
            raise ConfigError(
                f"{file.with_name(name)} is not the file that was exported (its SHA-256 is {actual[name][:12]}..., the recorded one "
                f"{str(recorded[name])[:12]}...): it is damaged or was replaced. Copy or export it again."
            )
    return actual


def _read_entry(path: Path, key: str) -> Any:
    """An entry of a JSON file, or None."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content.get(key) if isinstance(content, dict) else None
