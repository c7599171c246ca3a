"""Results that ``overwrite=true`` is about to replace.

They are set aside in a hidden folder of their directory. If the new ones never become complete they come back, whenever the process was
killed: ``.replacing-<tool>`` holds files on their way there or back, ``.replaced-<tool>`` all of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

PREFIXES = (".replacing-", ".replaced-")


def holds_replaced_results(path: Path, tool: str) -> bool:
    """True if results of a tool are set aside in a directory."""
    return any((path / f"{prefix}{tool}").is_dir() for prefix in PREFIXES)


def set_aside(path: Path, tool: str, files: Iterable[Path]) -> None:
    """Move results below ``path`` out of the way of new ones."""
    moving, replaced = (path / f"{prefix}{tool}" for prefix in PREFIXES)
    moving.mkdir()
    _move(path, moving, files)
    moving.rename(replaced)


def restore(path: Path, tool: str, result: str, outputs: Iterable[Path]) -> None:
    """Bring back what was set aside, unless the new results are complete.

    Args:
        path: the directory.
        tool: the tool whose results they are.
        result: name of the file that the tool writes last.
        outputs: what it has written so far, which is removed.
    """
    moving, replaced = (path / f"{prefix}{tool}" for prefix in PREFIXES)
    if replaced.is_dir():
        if (path / result).is_file():
            shutil.rmtree(replaced)
            return
        remove(outputs)
        replaced.rename(moving)
    if moving.is_dir():
        files = [file for file in moving.rglob("*") if file.is_symlink() or not file.is_dir()]
        _move(moving, path, sorted(files, key=lambda file: file == moving / result))
        shutil.rmtree(moving)


def remove(files: Iterable[Path]) -> None:
    """Remove files and folders, but not what links lead to."""
    for file in files:
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)


def _move(source: Path, target: Path, files: Iterable[Path]) -> None:
    """Move files and folders to the same places below another folder."""
    for file in files:
        if os.path.lexists(file):
            moved = target / file.relative_to(source)
            moved.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, moved)
