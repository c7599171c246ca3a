"""Which images belong to which split: lists of stems, or a fixed share of all images."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Literal

from segzoo.data.image_io import printable, read_bytes
from segzoo.types import DataError

Split = Literal["train", "val"]
SPLITS: dict[Split, str] = {"train": "train", "val": "val"}


def read_list(path: Path) -> list[str]:
    """The stems of a list file, one a line. Blank lines, CR LF and a byte order mark are fine.

    Raises:
        DataError: no such file, no UTF-8, a stem twice, or one that leads out of the data set.
    """
    text = read_bytes(path).decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise DataError(f"{printable(path)}: is no plain text in UTF-8 (it holds zero bytes; UTF-16?). Save it as UTF-8.")
    stems: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stem = line.strip()
        if not stem:
            continue
        if stem.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", stem) or re.match(r"[A-Za-z]:", stem):
            raise DataError(
                f"{printable(path)}, line {number}: {printable(stem)!r} leads out of the data set; wanted a stem relative to its patterns."
            )
        if stem in stems:
            raise DataError(
                f"{printable(path)}, line {number}: {printable(stem)!r} stands in line {stems[stem]} already; name each image once."
            )
        stems[stem] = number
    return list(stems)


def is_validation(stem: str, val_ratio: float) -> bool:
    """Whether a stem belongs to val: a fixed share of all stems does, each by its own hash, so that new files move no old one."""
    digest = hashlib.sha256(os.fsencode(stem)).digest()
    return int.from_bytes(digest[:8], "big") < val_ratio * 2**64
