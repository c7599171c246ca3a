"""Folders of a converted data set, which another conversion may replace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segzoo.data.splits import SPLITS
from segzoo.messages import printable
from segzoo.registry import ConfigError

IMAGES, MASKS, CONF = "images", "labels", "conf"
MARKER = ".converted"  # in folders that a conversion has written
UNFINISHED = ".converting"


@contextmanager
def new_conversion(out: Path, reading: Iterable[Path]) -> Iterator[Path]:
    """Yield a folder whose content replaces an earlier conversion.

    It does so at the end of the block. If the block fails, the earlier conversion remains.

    Args:
        out: folder of the data set.
        reading: the images to convert.

    Raises:
        ConfigError: ``out`` holds files under these names that no conversion has written, or images to convert.
    """
    names, lists = (IMAGES, MASKS, CONF), [f"{split}.txt" for split in SPLITS]
    _check_replaceable(out, names, lists, reading)
    working, replaced = out / UNFINISHED / "new", out / UNFINISHED / "old"
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # of a process that was killed
    for name in names:
        (working / name).mkdir(parents=True)
        (working / name / MARKER).touch()
    try:
        yield working
        replaced.mkdir()
        for source, target in ((out, replaced), (working, out)):
            for name in (*names, *lists):
                if os.path.lexists(source / name):
                    os.replace(source / name, target / name)
    finally:
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)


def _check_replaceable(out: Path, names: Iterable[str], lists: Iterable[str], reading: Iterable[Path]) -> None:
    folders = [out / name for name in names]
    is_own = any((folder / MARKER).is_file() and not folder.is_symlink() for folder in folders)
    foreign = [folder for folder in folders if os.path.lexists(folder) and not (is_own and (folder / MARKER).is_file())]
    foreign += [] if is_own else [out / name for name in lists if os.path.lexists(out / name)]
    if foreign:
        raise ConfigError(
            f"out={out}: {printable(foreign[0])} was not written by action=convert. Set another out: originals are never touched."
        )
    removed = tuple(os.path.join(os.path.realpath(folder), "") for folder in folders if folder.exists())
    if lost := next((path for path in reading if removed and os.path.realpath(path).startswith(removed)), None):
        raise ConfigError(f"out={out}: would be replaced, but {printable(lost)} in it is to be converted. Set another out.")


def folder_of_conversion(folder: Path, top: Path) -> str | None:
    """Name the folder of a conversion that holds a folder.

    Args:
        folder: a folder at or below ``top``.
        top: only folders below it count.

    Returns:
        ``images``, ``labels`` or ``conf``, or None.
    """
    below = (top.joinpath(*folder.relative_to(top).parts[:depth]) for depth in range(len(folder.relative_to(top).parts), 0, -1))
    return next((path.name for path in below if (path / MARKER).is_file()), None)
