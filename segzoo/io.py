"""Files that are whole or absent: written beside their place, forced to the disk, then moved there in one step."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Calls ``write`` with an open temporary file and moves it to ``path`` once it is on the disk.

    An open file (and not a path) goes to the writer, so that a full disk is a plain ``OSError`` whoever writes.

    Raises:
        OSError: the file cannot be written; ``path`` is then what it was before, and the temporary file is gone.
    """
    beside = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    _fsync_dir(path.parent)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_stale_temp_files(folder: Path) -> None:
    """Removes temporary files a killed process left below ``folder``; nobody else may be writing there."""
    for path in folder.rglob("*.tmp.*"):
        if path.suffix[1:].isdigit() and path.is_file():
            path.unlink(missing_ok=True)


def to_plain_containers(value: Any) -> Any:
    """``value`` in dicts, lists, strings, numbers and None only, as YAML and JSON hold them.

    Raises:
        TypeError: it holds something else, such as an array or a class.
    """
    if isinstance(value, dict):
        return {key: to_plain_containers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_containers(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a configuration holds plain values only, got {value!r} of type {type(value).__name__}")


def _fsync_dir(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as indented JSON, all of it or nothing: temporary file, fsync, replace."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, all of it or nothing."""
    write_atomically(path, lambda file: file.write(text.encode()))
