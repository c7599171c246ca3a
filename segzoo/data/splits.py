"""Names of splits, and lists of their images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from segzoo.data.image_io import read_bytes
from segzoo.io import write_atomically
from segzoo.messages import printable
from segzoo.types import DataError

Split = Literal["train", "val", "test"]
SplitOrAll = Literal["train", "val", "test", "all"]
SPLITS: dict[Split, str] = {"train": "train", "val": "val", "test": "test"}
SPLIT_WORDS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def read_list(path: Path) -> list[str]:
    """Read the stems of a list file, one per line.

    Blank lines, CR LF line endings, a byte order mark and the backslashes of Windows paths are accepted.

    Raises:
        DataError: the file is missing or not UTF-8, a stem is repeated, or a stem points outside the data set.
    """
    text = read_bytes(path).decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise DataError(f"{printable(path)}: not a UTF-8 text file (it contains zero bytes; UTF-16?). Save it as UTF-8.")
    line_of: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stem = line.strip()
        if not stem:
            continue
        if stem.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", stem) or re.match(r"[A-Za-z]:", stem):
            raise DataError(
                f"{printable(path)}, line {number}: {printable(stem)!r} points outside the data set; expected a stem relative to its "
                "patterns."
            )
        stem = stem.replace("\\", "/")
        if stem in line_of:
            raise DataError(
                f"{printable(path)}, line {number}: {printable(stem)!r} is already on line {line_of[stem]}; list each image once."
            )
        line_of[stem] = number
    return list(line_of)


def split_of(*names: str) -> Split | None:
    """Infer the split from names of files and folders.

    The first name with the word of exactly one split decides. ``instances_train2017`` is train.
    """
    for name in names:
        found: set[Split] = {SPLIT_WORDS[word] for word in re.findall(r"[a-z]+", name.lower()) if word in SPLIT_WORDS}
        if len(found) == 1:
            return found.pop()
    return None


def write_list(path: Path, stems: Iterable[str]) -> None:
    """Write a list file that ``read_list`` reads."""
    text = "".join(f"{stem}\n" for stem in stems)
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
