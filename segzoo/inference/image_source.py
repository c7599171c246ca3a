"""Image discovery, and a unique output name for each image."""

from __future__ import annotations

import glob
import os
from collections import Counter
from pathlib import Path

from segzoo.registry import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def find_images(source: str, out: Path) -> list[tuple[Path, str]]:
    """Find a source's images, sorted, with a unique output name each.

    Args:
        source: an image, a folder (searched recursively) or a glob pattern such as ``"drive/**/*.jpg"``.
        out: the output directory. Files below it are skipped, so a second run does not pick up the output of the first.

    Returns:
        Pairs of path and name. Names keep the folders below the source (``a/x.jpg`` and ``b/x.jpg`` become ``a/x`` and ``b/x``) and
        drop the suffix, unless two images differ only in it (``x.jpg`` and ``x.png`` stay ``x.jpg`` and ``x.png``).

    Raises:
        ConfigError: if the source does not exist or contains no image.
    """
    root = Path(source)
    if root.is_file():
        return [(root, root.stem)]
    is_folder = root.is_dir()
    if is_folder:
        candidates = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES]
    else:
        candidates = [Path(path) for path in glob.glob(source, recursive=True) if Path(path).suffix.lower() in SUFFIXES]
        root = Path(os.path.commonpath([path.parent for path in candidates])) if candidates else root
    output_dir = out.resolve()
    paths = sorted(path for path in candidates if path.is_file() and output_dir not in path.resolve().parents)
    if not paths:
        problem = "contains no image" if is_folder else "is not a file or folder and matches no image"
        raise ConfigError(f"source={source} {problem}; expected files ending in {' '.join(SUFFIXES)}")
    names = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    counts = Counter(names)
    return [
        (path, name if counts[name] == 1 else path.relative_to(root).as_posix()) for path, name in zip(paths, names, strict=True)
    ]
