"""Finds the files of a data set by patterns such as ``images/{split}/{stem}.*`` and pairs images with labels by their stems."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from segzoo.data.image_io import printable
from segzoo.data.splits import SPLITS, Split, is_validation, read_list
from segzoo.types import DataError

ANY_IMAGE = r"\.(?i:png|jpe?g|bmp|tiff?|webp|p[pgn]m|gif)"
HINT = "Add the files, correct the patterns data.images and data.labels, or name the images to use in data.lists."


class FilePair(NamedTuple):
    """One image and the file that labels it; no label where images without one are all background."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class FileIndex:
    """Where one split of a data set lies; ``tree()`` lists its pairs, which is the first time the disk is touched.

    Attributes:
        root: folder of the data set.
        split: the split's name on disk, put where the patterns say ``{split}``.
        images, labels: patterns relative to root. ``{stem}`` stands for what an image and its label share, folders included; the
            ending ``.*`` for any image format.
        lists: pattern of a text file with one stem a line; None takes every file there is.
        share: (split, share): without lists, the part of all images that goes to val, chosen by their stems' hashes.
        need_labels: whether an image without a label file is an error.
        hint: what else to say when images are missing.
        hint: what to do when files are missing.
    """

    root: str
    split: str
    images: str
    labels: str
    lists: str | None = None
    val_fraction: tuple[Split, float] | None = None
    need_labels: bool = True
    hint: str = ""
    hint: str = HINT

    def __call__(self) -> list[FilePair]:
        root = Path(self.root).expanduser()
        if not os.path.isdir(root):
            raise DataError(f"data root {printable(root)} is not a folder. {self._selected()}")
        labels = self.find(self.labels)
        images = self.find(self.images, without=set(labels.values()))
        wanted = self._listed(root) if self.lists else sorted(images.keys() | labels.keys())
        if self.val_fraction:
            wanted = [stem for stem in wanted if is_validation(stem, self.val_fraction[1]) == (self.val_fraction[0] == "val")]
        self._check_missing(wanted, images, labels)
        if not wanted:
            drawn = (
                f" and falls into {self.val_fraction[0]} with data.val_ratio={self.val_fraction[1]:g}" if self.val_fraction else ""
            )
            came = f"split {self.split!r} of {printable(root)} is empty: no file fits {self._pattern(self.images)}{drawn}."
            raise DataError(f"{came} {self._selected()}")
        return [FilePair(printable(stem), images[stem], labels.get(stem)) for stem in wanted]

    def find(self, pattern: str, without: set[Path] | None = None) -> dict[str, Path]:
        """Stem -> file for every file that fits the pattern, leaving out those in ``without``. Two files of one stem are an error."""
        start, fits = _compile(self._pattern(pattern))
        top = Path(self.root).expanduser() / start
        found: dict[str, Path] = {}
        for inner in _files(top):
            if (match := fits.fullmatch(inner)) is None or (path := top / inner) in (without or ()):
                continue
            stem = match["stem"]
            if stem in found:
                raise DataError(
                    f"{printable(path)} and {printable(found[stem].name)} share the stem {printable(stem)!r}: keep one, or make the pattern narrower."
                )
            found[stem] = path
        return found

    def _pattern(self, pattern: str) -> str:
        return pattern.replace("{split}", self.split)

    def _selected(self) -> str:
        lists = f" and the list {self._pattern(self.lists)}" if self.lists else ""
        return (
            f"Wanted images {self._pattern(self.images)} with labels {self._pattern(self.labels)}{lists} in it. Put the data there, set "
            "data.root, or set the environment variable SEGZOO_DATA to the folder that holds the data sets."
        )

    def _listed(self, root: Path) -> list[str]:
        path = root / self._pattern(self.lists or "")
        stems = read_list(path)
        if not stems:
            raise DataError(
                f"{printable(path)}: the list is empty. Wanted one stem a line, such as the name of an image without its ending."
            )
        return stems

    def _check_missing(self, wanted: list[str], images: dict[str, Path], labels: dict[str, Path]) -> None:
        """Raises DataError naming how many images and labels are missing, the first five of each, and what was looked for."""
        faults = []
        for what, there, pattern in (("picture", images, self.images), ("label", labels, self.labels)):
            missing = [stem for stem in wanted if stem not in there]
            if missing and (what == "picture" or self.need_labels):
                first = ", ".join(printable(stem) for stem in missing[:5]) + (", ..." if len(missing) > 5 else "")
                faults.append(f"{len(missing)} of {len(wanted)} have no {what} {self._pattern(pattern)}: {first}.")
                if what == "picture" and self.hint:
                    faults.append(self.hint)
        if faults and self.lists and any(os.path.splitext(stem)[0] in images for stem in wanted):
            faults.append("The list seems to hold file names: write stems, without the ending.")
        if faults:
            raise DataError(f"split {self.split!r} of {printable(self.root)} is incomplete: {' '.join(faults)} {self.hint}")


def file_index_errors(
    split: str, images: str, labels: str, lists: str | None, splits: Mapping[Split, str], val_ratio: float | None
) -> list[str]:
    """What is wrong with the patterns and splits of a data set, one line each; opens nothing."""
    faults = [f"the split is 'train' or 'val', not {split!r}."] if split not in ("train", "val") else []
    faults += [f"data.splits names no folder or list for {name!r}; write {name}: <name>." for name in SPLITS if name not in splits]
    for key, pattern, words in (
        ("images", images, ("stem", "split")),
        ("labels", labels, ("stem", "split")),
        ("lists", lists or "", ("split",)),
    ):
        strange = set(re.findall(r"\{(.*?)\}", pattern)) - set(words)
        if strange or pattern.count("{stem}") != (key != "lists"):
            needs = "{stem} once and may hold {split}" if key != "lists" else "no word in braces but {split}"
            faults.append(f"data.{key}={pattern!r}: the pattern holds {needs}.")
        if "*" in pattern.removesuffix(".*"):
            faults.append(
                f"data.{key}={pattern!r}: `*` may only stand in the ending `.*` (any image format); {{stem}} spans folders."
            )
    divided = "{split}" in images or "{split}" in (lists or "")
    if not divided and val_ratio is None:
        faults.append("nothing tells train from val: put {split} into data.images or data.lists, or set data.val_ratio=0.2.")
    if divided and val_ratio is not None:
        faults.append(
            "data.val_ratio divides images that nothing else divides: take {split} out of data.images and data.lists, or set it null."
        )
    return faults


def _compile(pattern: str) -> tuple[str, re.Pattern]:
    """The folder to start in and what paths below it must look like; only the ending is matched in either case."""
    start, _, rest = pattern.partition("{stem}")
    folder, slash, prefix = start.rpartition("/")
    if rest.endswith(".*"):
        rest, ending = rest[:-2], ANY_IMAGE
    else:
        rest, dot, kind = rest.rpartition(".")
        ending = f"(?i:{re.escape(dot + kind)})"
    return folder + slash, re.compile(f"{re.escape(prefix)}(?P<stem>.+){re.escape(rest)}{ending}", re.DOTALL)


def _files(top: Path) -> list[str]:
    """Every file below a folder, relative and sorted; links are followed, loops are not; hidden files are left out."""
    if not os.path.isdir(top):
        near = ", ".join(sorted(printable(path) for path in next(os.walk(top.parent), ("", [], []))[1])[:10])
        raise DataError(
            f"{printable(top)} is not a folder.{f' Beside it stand: {near}.' if near else ''} Correct data.root or the patterns."
        )

    def refuse(error: OSError) -> None:
        raise DataError(f"{printable(error.filename or top)}: cannot be listed: {error.strerror}. Make it readable.") from error

    found, seen = [], {os.path.realpath(top)}
    for folder, inner, names in os.walk(top, onerror=refuse, followlinks=True):
        kept = []
        for name in sorted(inner):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                kept.append(name)
        inner[:] = kept
        below = os.path.relpath(folder, top)
        found += [name if below == "." else f"{below}/{name}" for name in names if not name.startswith(".")]
    return sorted(found)
