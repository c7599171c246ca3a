"""Index of the image and label files of a data set.

Patterns such as ``images/{split}/{stem}.*`` say where the files are. An image and its label share the stem.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segzoo.data.checks.layouts import describe_tree, walk_visible
from segzoo.data.splits import read_list
from segzoo.data.splitting.ratio_split import RatioSplit
from segzoo.messages import did_you_mean, printable
from segzoo.types import DataError

ANY_IMAGE = r"\.(?i:png|jpe?g|bmp|tiff?|webp|p[pgn]m|gif)"
MISSING_FILES_HINT = "Add the files, correct the patterns data.images and data.labels, or list the images to use in data.lists."


class FilePair(NamedTuple):
    """An image file and its label file.

    Paths are kept as text, because to make 200,000 ``Path`` objects takes seconds.

    Attributes:
        name: the stem, in printable form.
        image_path: path of the image.
        label_path: path of the label file, None for an image without one where such images count as background.
        more_paths: paths of the files with further channels of the image.
    """

    name: str
    image_path: str
    label_path: str | None
    more_paths: tuple[str, ...] = ()

    @property
    def image(self) -> Path:
        """The image file."""
        return Path(self.image_path)

    @property
    def images(self) -> list[Path]:
        """All files of the image."""
        return [Path(path) for path in (self.image_path, *self.more_paths)]

    @property
    def label(self) -> Path | None:
        """The label file, if there is one."""
        return None if self.label_path is None else Path(self.label_path)


@dataclass(frozen=True)
class FileIndex:
    """Location of one split on disk.

    Calling an index lists its pairs and is the first time the disk is accessed.

    Attributes:
        root: folder of the data set.
        split: name of the split on disk, which replaces ``{split}`` in the patterns.
        images, labels: patterns relative to root. ``{stem}`` is the part that an image and its label share, including folders. The
            extension ``.*`` matches any image format.
        lists: pattern of a text file with one stem per line. None uses every matching file.
        ratio_split: without lists, which of all images belong to the split. None: all.
        need_labels: whether an image without a label file is an error.
        missing_images_hint, missing_labels_hint: extra advice when images or labels are missing.
        missing_files_hint: advice when any file is missing.
        homepage: where the data set can be downloaded, None if unknown.
        more_images: patterns of the files with further channels of an image.
    """

    root: str
    split: str
    images: str
    labels: str
    lists: str | None = None
    ratio_split: RatioSplit | None = None
    need_labels: bool = True
    missing_images_hint: str = ""
    missing_labels_hint: str = ""
    missing_files_hint: str = MISSING_FILES_HINT
    homepage: str | None = None
    more_images: tuple[str, ...] = ()

    def exists(self) -> bool:
        """Return true if the list, or else the image folder, exists."""
        path = self._pattern(self.lists) if self.lists else _compile(self._pattern(self.images))[0]
        return os.path.exists(Path(self.root).expanduser() / path)

    def check_location(self) -> None:
        """Raise DataError if the root or the list does not exist."""
        root = Path(self.root).expanduser()
        if not os.path.isdir(root):
            raise DataError(f"data root {printable(root)} is not a folder.{_nearest_folders(root)} {self._expected_files()}")
        if self.lists and not os.path.exists(path := root / self._pattern(self.lists)):
            raise DataError(
                f"{printable(path)}: there is no such list. data.lists={self.lists} expects it for {self.split!r}. "
                "Create it, set data.splits to the names of your lists, or data.lists=null to use every matching file."
                f"{self._source()}"
            )

    def __call__(self) -> list[FilePair]:
        self.check_location()
        root = Path(self.root).expanduser()
        labels = self.find(self.labels)
        images, *others = (self.find(pattern, set(labels.values())) for pattern in (self.images, *self.more_images))
        stems = self._listed_stems(root) if self.lists else sorted(labels.keys() | images.keys() | set().union(*others))
        if self.ratio_split:
            stems = self.ratio_split.select(stems, self.root)
        self._check_missing(stems, [images, *others], labels)
        if not stems:
            raise DataError(
                f"split {self.split!r} of {printable(root)} is empty: no file matches {self._pattern(self.images)}. "
                f"{self._expected_files()}{self._found_files()}"
            )
        return [
            FilePair(printable(stem), images[stem], labels.get(stem), tuple(more[stem] for more in others) if others else ())
            for stem in stems
        ]

    def find(self, pattern: str, exclude: Container[str] = ()) -> dict[str, str]:
        """Find the files that match a pattern, except those in ``exclude``.

        Returns:
            Stem -> path of the file.

        Raises:
            DataError: two files share a stem, or the folder does not exist or cannot be read.
        """
        start, regex = _compile(self._pattern(pattern))
        top = Path(self.root).expanduser() / start
        if not os.path.isdir(top):
            raise DataError(
                f"{printable(top)} is not a folder. Correct data.root or the patterns.{self._source()}{self._found_files()}"
            )
        paths: dict[str, str] = {}
        folder = os.path.join(top, "")
        for relative in list_files(top):
            if (match := regex.fullmatch(relative)) is None or (path := folder + relative) in exclude:
                continue
            stem = match["stem"]
            if stem in paths:
                raise DataError(
                    f"{printable(path)} and {printable(os.path.basename(paths[stem]))} share the stem {printable(stem)!r}. Remove one, or use a "
                    "narrower pattern."
                )
            paths[stem] = path
        return paths

    def _pattern(self, pattern: str) -> str:
        return pattern.replace("{split}", self.split)

    def _expected_files(self) -> str:
        lists = f" and the list {self._pattern(self.lists)}" if self.lists else ""
        parent = os.environ.get("SEGZOO_DATA", "data")
        variable = ", or SEGZOO_DATA to the folder of all data sets" if Path(parent) in Path(self.root).parents else ""
        return (
            f"Expected images {self._pattern(self.images)} with labels {self._pattern(self.labels)}{lists} in it. Put the data "
            f"there, or set data.root=<folder>{variable}.{self._source()}"
        )

    def _source(self) -> str:
        return f" The data set is available from {self.homepage}." if self.homepage else ""

    def _found_files(self) -> str:
        found = describe_tree(Path(self.root).expanduser(), (self.images, self.labels))
        return f" {found}" if found else ""

    def _listed_stems(self, root: Path) -> list[str]:
        path = root / self._pattern(self.lists or "")
        stems = read_list(path)
        if not stems:
            raise DataError(
                f"{printable(path)}: the list is empty. Expected one stem per line, such as the name of an image without its extension."
            )
        return stems

    def _check_missing(self, stems: list[str], images: list[dict[str, str]], labels: dict[str, str]) -> None:
        """Raise DataError if images or labels are missing.

        The message gives their number, the first five of each, and the patterns they were searched with.
        """
        problems = []
        patterns = zip(["image"] * len(images), images, (self.images, *self.more_images), strict=True)
        for kind, paths, pattern in (*patterns, ("label", labels, self.labels)):
            missing = [stem for stem in stems if stem not in paths]
            if missing and (kind == "image" or self.need_labels):
                first = ", ".join(printable(stem) for stem in missing[:5]) + (", ..." if len(missing) > 5 else "")
                problems.append(f"{len(missing)} of {len(stems)} pairs have no {kind} {self._pattern(pattern)}: {first}.")
                if hint := self.missing_images_hint if kind == "image" else self.missing_labels_hint:
                    problems.append(hint)
        if problems and self.lists and any(os.path.splitext(stem)[0] in images[0] for stem in stems):
            problems.append("The list seems to contain file names: use stems, without the extension.")
        if problems:
            found = self._found_files() if not all(images) or (not labels and self.need_labels) else ""
            raise DataError(
                f"split {self.split!r} of {printable(self.root)} is incomplete: {' '.join(problems)} {self.missing_files_hint}{self._source()}{found}"
            )


def _compile(pattern: str) -> tuple[str, re.Pattern]:
    """Split a pattern into a start folder and a regex.

    The regex matches paths relative to that folder.

    Only the extension is matched case-insensitively.
    """
    start, _, rest = pattern.partition("{stem}")
    folder, slash, prefix = start.rpartition("/")
    if rest.endswith(".*"):
        rest, extension = rest[:-2], ANY_IMAGE
    else:
        rest, dot, kind = rest.rpartition(".")
        extension = f"(?i:{re.escape(dot + kind)})"
    return folder + slash, re.compile(f"{re.escape(prefix)}(?P<stem>.+){re.escape(rest)}{extension}", re.DOTALL)


def list_files(top: Path) -> list[str]:
    """List all files below a folder as sorted relative paths.

    Links are followed but not in a loop. Hidden files and folders are skipped.
    """
    if not os.path.isdir(top):
        siblings = ", ".join(sorted(printable(path) for path in next(os.walk(top.parent), ("", [], []))[1])[:10])
        listed = f" Folders next to it: {siblings}." if siblings else ""
        raise DataError(f"{printable(top)} is not a folder.{listed} Correct data.root or the patterns.")

    def on_error(error: OSError) -> None:
        raise DataError(f"{printable(error.filename or top)}: cannot be listed: {error.strerror}. Make it readable.") from error

    files: list[str] = []
    for folder, names in walk_visible(top, on_error):
        files += names if folder == "." else [f"{folder}/{name}" for name in names]
    return sorted(files)


def _nearest_folders(path: Path) -> str:
    """List the folders of the closest folder above a missing one.

    Hidden ones are left out, and those of the file system's root, of which none is meant.
    """
    parent = next((parent for parent in path.absolute().parents if os.path.isdir(parent)), None)
    if parent is None or parent == parent.parent:
        return ""
    names = sorted(printable(name) for name in next(os.walk(parent), ("", [], []))[1] if not name.startswith("."))
    if not names:
        return ""
    missing = path.absolute().relative_to(parent).parts[0]
    end = ", ..." if len(names) > 10 else "."
    return f"{did_you_mean(missing, names)} {printable(parent)} holds the folders {', '.join(names[:10])}{end}"
