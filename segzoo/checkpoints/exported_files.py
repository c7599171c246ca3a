"""Exported files, where a tool takes them in place of a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

EXPORTED_SUFFIXES = (".onnx", ".xml", ".zip")
EXPORTED_NAMES = ("model.onnx", "model.xml")


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
