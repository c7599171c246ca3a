"""Image discovery, and a unique output name for each image."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path

import numpy as np

from segzoo.checkpoints.store import list_checkpoints
from segzoo.data.annotations.output_folders import CONF, MASKS
from segzoo.data.file_index import list_files
from segzoo.data.image_io import read_image
from segzoo.image_decoder import SUFFIXES
from segzoo.inference.large.reader import JP2_SUFFIXES, LargeImage
from segzoo.inference.sources._base import Item, Source
from segzoo.messages import printable
from segzoo.registry import ConfigError
from segzoo.runs.run_dir import RESULT_FILES

Read = Callable[[Path], np.ndarray | LargeImage]
ALL_SUFFIXES = (*SUFFIXES, *JP2_SUFFIXES)  # of images that are predicted
RESULT_FOLDERS = ("labels", "overlays", "confidence", "polygons")  # of an output directory


def find_images(
    source: str,
    out: Path,
    resumed: bool = False,
    recursive: bool = True,
    read: Read = read_image,
    suffixes: tuple[str, ...] = ALL_SUFFIXES,
) -> Source:
    """Find a source's images, sorted, with a unique output name each.

    Folders are searched through links but not in a loop. Hidden files and folders are left out.

    Args:
        source: an image, a folder or a glob pattern such as ``"drive/**/*.jpg"``. The part of a pattern that exists is taken literally.
        out: the output directory. The folders of its results are skipped, and those of earlier runs within the source.
        resumed: ``out`` holds results of the same prediction, which may be overwritten.
        recursive: also search the folders in a folder.
        read: reads an image.
        suffixes: endings of images.

    Returns:
        The images and notes about skipped files. Names keep the folders below the source, or below the part of a pattern that exists (``a/x.jpg`` and ``b/x.jpg`` become ``a/x`` and
        ``b/x``) and drop the suffix, unless another image would share the name (``x.jpg`` and ``x.png`` stay ``x.jpg`` and ``x.png``).

    Raises:
        ConfigError: the source does not exist, contains no image or lies where results are written, or a result would overwrite a file.
    """
    root = Path(source)
    if root.is_file():
        return _source([(root, root.stem)], [], read)
    paths, skipped = find_image_files(source, out, recursive, suffixes)
    if not root.is_dir():
        root = Path(*Path(source).parts[: _literal_parts(source)])
    names = unique_names([path.relative_to(root) for path in paths])
    if not resumed:
        _check_overwriting(root, out, names)
    return _source(list(zip(paths, names, strict=True)), skipped, read)


def listed_images(paths: list[Path], out: Path, resumed: bool = False, read: Read = read_image) -> Source:
    """Take the images of a list in its order.

    Each has a unique output name, which keeps the folders below the deepest folder that has all of them. The other arguments are those of ``find_images``.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = Path(os.path.commonpath([path.parent for path in absolute]))
    images = dict(zip(absolute, paths, strict=True))  # a path may be written in several ways
    names = unique_names([path.relative_to(root) for path in images])
    if not resumed:
        _check_overwriting(root, out, names)
    return _source(list(zip(images.values(), names, strict=True)), [], read)


def _source(images: list[tuple[Path, str]], skipped: list[str], read: Read) -> Source:
    items = [Item(name, printable(path), partial(read, path), path) for path, name in images]
    return Source(items, len(items), skipped)


def find_image_files(
    source: str,
    out: Path | None = None,
    recursive: bool = True,
    suffixes: tuple[str, ...] = SUFFIXES,
    *,
    setting: str = "source",
) -> tuple[list[Path], list[str]]:
    """Find a source's images like ``find_images``, without names.

    Args:
        source, out, recursive: as in ``find_images``. Without ``out``, nothing is skipped for its folder.
        suffixes: endings of images.
        setting: the setting that has the source, for messages.

    Returns:
        The paths, sorted, and sentences about files that were left out.

    Raises:
        ConfigError: the source does not exist or contains no image.
    """
    root = Path(source)
    if root.is_file():
        return [root], []
    is_folder = root.is_dir()
    files = _folder_files(root, recursive) if is_folder else _glob(source)
    paths, skipped = _select_images(files, out, suffixes, root if is_folder else None)
    if not paths:
        problem = "contains no image" if is_folder else "is not a file or folder and matches no image"
        bracket = "" if is_folder or "[" not in source else " In a pattern, write [[] for the bracket [."
        expected = f"expected files ending in {' '.join(suffixes)}.{bracket}"
        raise ConfigError(f"{setting}={source} {problem}; {expected} {' '.join(skipped)}".rstrip())
    return paths, skipped


def _folder_files(folder: Path, recursive: bool) -> list[Path]:
    """List the files of a folder that are not hidden."""
    if recursive:
        return [folder / relative for relative in list_files(folder)]
    return [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]


def _glob(pattern: str) -> list[Path]:
    """List the files that match a pattern.

    The leading parts that exist are literal, so a folder may be called ``[2024] cam``. ``**`` follows links, but not in a loop.
    """
    parts, literal = Path(pattern).parts, _literal_parts(pattern)
    parts = (*map(glob.escape, parts[:literal]), *parts[literal:])
    depth = parts.index("**") if "**" in parts else len(parts)
    found = glob.glob(os.path.join(*parts[:depth])) if depth else ["."]
    if depth == len(parts):
        return [Path(path) for path in found if os.path.isfile(path)]
    folders = [path for path in found if os.path.isdir(path)]
    return [Path(top, name) for top in folders for name in list_files(Path(top)) if _matches(tuple(name.split("/")), parts[depth:])]


def _literal_parts(pattern: str) -> int:
    """Number of leading parts of a pattern that exist."""
    parts = Path(pattern).parts
    return next((count for count in range(len(parts), 0, -1) if os.path.exists(Path(*parts[:count]))), 0)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Match parts of a path, where ``**`` is any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[count:], pattern[1:]) for count in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _select_images(
    files: list[Path], out: Path | None, suffixes: tuple[str, ...], top: Path | None
) -> tuple[list[Path], list[str]]:
    """Separate the images from results of predictions and other files.

    Args:
        files, out, suffixes: the files, and as in ``find_image_files``.
        top: the folder below which results of earlier runs are left out. None for a pattern, which names its folders.
    """
    output_dir, resolve, run_with_results = out and out.resolve(), cache(Path.resolve), cache(_run_with_results)
    results = {output_dir / name: out / name for name in RESULT_FOLDERS} if out and output_dir else {}
    images, in_results, earlier, endings = [], Counter[Path](), Counter[Path](), Counter[str]()
    is_conversion, masks = cache(_is_conversion), Counter[Path]()
    for path in files:
        folder = resolve(path.parent)
        if found := results.keys() & {folder, *folder.parents}:
            in_results[results[found.pop()]] += 1
        elif path.suffix.lower() not in suffixes:
            if folder != output_dir:  # which holds the configuration
                endings[path.suffix or "none"] += 1
        elif top and (run := run_with_results(path.parent, top)):
            earlier[run] += 1
        elif top and (converted := next((own for own in _folders_below(path.parent, top) if is_conversion(own)), None)):
            masks[converted] += 1
        else:
            images.append(path)
    skipped = []
    if in_results:
        folders = " and ".join(str(folder) for folder in sorted(in_results))
        skipped.append(f"{in_results.total()} files in {folders} were left out: results are written there.")
    if earlier:
        skipped.append(f"{earlier.total()} files in {_list_folders(earlier)} were left out: they are results of earlier runs.")
    if masks:
        skipped.append(f"{masks.total()} files in {_list_folders(masks)} were left out: they are masks of a conversion.")
    if endings:
        by_count = sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:8]
        listed = ", ".join(f"{count} {printable(ending)}" for ending, count in by_count)
        skipped.append(f"{endings.total()} files were left out for their ending ({listed}).")
    return sorted(images), skipped


def _list_folders(folders: Iterable[Path]) -> str:
    """List folders by name, the first three of them."""
    ordered = sorted(folders)
    return ", ".join(map(printable, ordered[:3])) + (", ..." if len(ordered) > 3 else "")


def _run_with_results(folder: Path, top: Path) -> Path | None:
    """Return the run below ``top`` that wrote a folder, if any."""
    for path in _folders_below(folder, top):
        run = path.parent
        is_prediction = path.name in RESULT_FOLDERS and any(
            (run / name).is_file() for name in (RESULT_FILES["predict"], "images.csv")
        )
        if is_prediction or (path.name == "vis" and list_checkpoints(run)):
            return run
    return None


def _folders_below(folder: Path, top: Path) -> tuple[Path, ...]:
    """Return a folder and those above it, up to ``top`` without it."""
    return (folder, *folder.parents)[: len(folder.parts) - len(top.parts)]


def _is_conversion(folder: Path) -> bool:
    """Recognize the masks that ``action=convert`` has written."""
    return folder.name == MASKS and (folder.parent / RESULT_FILES["dataset"]).is_file() and (folder.parent / CONF).is_dir()


def unique_names(paths: list[Path]) -> list[str]:
    """Name relative paths without their suffix where that is unique."""
    full = [path.as_posix() for path in paths]
    short = [path.with_suffix("").as_posix() for path in paths]
    counts = Counter([*short, *full])
    names = [name if counts[name] == 1 else long for name, long in zip(short, full, strict=True)]
    assert len(set(names)) == len(names)
    return names


def _check_overwriting(root: Path, out: Path, names: list[str]) -> None:
    """Reject an output directory whose labels belong to the source."""
    source, output_dir = root.resolve(), out.resolve()
    if output_dir not in (source, *source.parents):
        return
    existing = [path for name in names if (path := out / "labels" / f"{name}.png").exists()]
    if existing:
        raise ConfigError(
            f"out={out}: {len(existing)} label maps would overwrite files, such as {printable(existing[0])}. Set another out, or remove them."
        )
