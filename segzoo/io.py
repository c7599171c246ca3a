"""Atomic file writes: a temporary file, then a rename.

A reader sees either the complete new file or the old one.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np


def check_regular(path: str | Path) -> None:
    """Raise OSError for a pipe or a device.

    Reading one may never end.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def write_atomically(path: Path, write: Callable[[BinaryIO], object], *, durable: bool = True) -> None:
    """Write a file atomically.

    The content goes to a temporary file, which is renamed to ``path`` once it is complete.

    Args:
        path: the file to create or replace.
        write: called with the open temporary file. It gets a file rather than a path so that a full disk raises a plain ``OSError``
            in every writer.
        durable: wait until the content is on disk, so that it survives a power failure. That takes milliseconds, which add up over
            thousands of small files that can be made again.

    Raises:
        OSError: the file cannot be written. The error names ``path``, which is then unchanged, and the temporary file is
            removed.
    """
    # of fixed length, as the target may have the longest name that a file can have
    temporary = path.with_name(f"{zlib.crc32(os.fsencode(path.name)):08x}.tmp.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # never through a link that is already there
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, os.fspath(temporary)):
            error.filename = os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        _fsync_dir(path.parent)


def sha256(path: Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_name(text: str) -> str:
    """Convert text to the name of a file or directory.

    Letters and digits of any script stay; every other character but ``.``, ``-`` and ``_`` becomes ``_``, and leading dots are removed.
    The result has at most 60 characters, which fit into the 255 bytes of a name, and is never empty.
    """
    return re.sub(r"[^\w.-]+", "_", text).lstrip(".")[:60] or "_"


def user_cache_dir() -> Path:
    """Return the directory of segzoo's caches, which may not exist.

    It is relative, and should not be used, where no home directory is known.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "segzoo"


def remove_stale_temp_files(folder: Path) -> None:
    """Remove temporary files that a killed process left below ``folder``.

    No other process may be writing there.
    """
    for path in folder.rglob("*.tmp.*"):
        if re.fullmatch(r"[0-9a-f]{8}\.tmp\.\d+", path.name) and path.is_file():  # the names of write_atomically
            path.unlink(missing_ok=True)


def to_plain_containers(value: object) -> Any:
    """Convert a value to the containers that YAML and JSON can hold.

    The result consists of dicts, lists, strings, numbers, booleans and None.

    Raises:
        TypeError: ``value`` contains something else, such as an array or a class.
    """
    if isinstance(value, dict):
        return {key: to_plain_containers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain_containers(item) for item in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"a configuration may hold plain values only, got {value!r} of type {type(value).__name__}")


def plain_numbers(value: Any) -> Any:
    """Convert numbers of NumPy to Python's, also in lists and tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(plain_numbers, value))
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0 else value


def _fsync_dir(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` atomically as indented JSON.

    NaN and infinity, which JSON does not have, become null. Bytes of file names that are not UTF-8 are escaped, and Python's ``json``
    restores them.
    """
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text))


def _finite(value: object) -> object:
    """Replace non-finite numbers by None at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically as UTF-8."""
    write_atomically(path, lambda file: file.write(text.encode()))


def npy_bytes(array: np.ndarray) -> bytes:
    """Encode an array as a NumPy file."""
    import numpy as np

    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a NumPy file atomically.

    ``np.save`` into a file would not say why a disk does not take it.
    """
    content = npy_bytes(array)
    write_atomically(path, lambda file: file.write(content))


def csv_text(rows: Sequence[Sequence[object]]) -> str:
    """Format rows as CSV, in which no cell is a formula."""
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_no_formula(cell) for cell in row] for row in rows])
    return text.getvalue()


def _no_formula(cell: object) -> object:
    """Put an apostrophe before text that a spreadsheet would run."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell
