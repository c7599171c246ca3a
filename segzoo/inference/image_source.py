"""Which images a source means, and under which name each one's results are kept."""

from __future__ import annotations

import glob
import os
from collections import Counter
from pathlib import Path

from segzoo.registry import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def find_images(source: str, out: Path) -> list[tuple[Path, str]]:
    """Every image of a source with the name of its results, sorted; no two names are equal.

    Args:
        source: an image, a folder (searched to the bottom) or a pattern such as ``"drive/**/*.jpg"``.
        out: where results go; nothing below it is taken as a source, so a second call does not read the first one's output.

    Returns:
        Pairs of path and name. Names keep the folders below the source (``a/x.jpg`` and ``b/x.jpg`` become ``a/x`` and ``b/x``)
        and lose the suffix unless two images differ in nothing else (``x.jpg`` and ``x.png`` become ``x.jpg`` and ``x.png``).

    Raises:
        ConfigError: nothing is there, or nothing of it is an image.
    """
    given = Path(source)
    if given.is_file():
        return [(given, given.stem)]
    if given.is_dir():
        root, found = given, [path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES]
    else:
        found = [Path(path) for path in glob.glob(source, recursive=True) if Path(path).suffix.lower() in SUFFIXES]
        root = Path(os.path.commonpath([path.parent for path in found])) if found else given
    own = out.resolve()
    paths = sorted(path for path in found if path.is_file() and own not in path.resolve().parents)
    if not paths:
        what = "holds no image" if given.is_dir() else "is no file or folder and matches no image"
        raise ConfigError(f"source={source} {what}; wanted files ending in {' '.join(SUFFIXES)}")
    short = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    often = Counter(short)
    return [
        (path, name if often[name] == 1 else path.relative_to(root).as_posix()) for path, name in zip(paths, short, strict=True)
    ]
