"""Search for the images that annotation files name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

from segzoo.data.annotations.output_folders import IMAGES, folder_of_conversion
from segzoo.data.file_index import list_files
from segzoo.data.splits import Split, split_of
from segzoo.image_decoder import SUFFIXES
from segzoo.messages import printable
from segzoo.types import DataError


class ImageFinder:
    """Index of the images below some folders.

    Images that an earlier conversion has copied are found only if there is no other, and its masks never.

    Args:
        roots: the folders. A file that several of them hold, also by links, counts once, as the first one's.
        hint: what to do about an image that is not found.
        masks: names of folders whose files are no images.

    Attributes:
        images: the images, without copies of a conversion.
        used: images that were found so far.
    """

    def __init__(self, roots: Sequence[Path], hint: str, masks: Sequence[str] = ()):
        self.roots, self.hint = list(dict.fromkeys(roots)), hint
        self.images: list[Path] = []
        self.used: set[Path] = set()
        self._split: dict[Path, Split | None] = {}
        self._copies: set[Path] = set()
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        seen: set[str] = set()
        for root in self.roots:
            conversion_of = cache(partial(folder_of_conversion, top=root))
            for name in list_files(root):
                path, folders = root / name, Path(name).parts[:-1]
                if path.suffix.lower() not in SUFFIXES or set(folders).intersection(masks):
                    continue
                real = os.path.realpath(path) if len(self.roots) > 1 else name
                if real not in seen:
                    seen.add(real)
                    self._add(path, conversion_of(path.parent), split_of(*reversed(folders)))

    def _add(self, path: Path, conversion: str | None, split: Split | None) -> None:
        if conversion not in (None, IMAGES):
            return
        if conversion:
            self._copies.add(path)
        else:
            self.images.append(path)
        self._split[path] = split
        self._by_name.setdefault(path.name, []).append(path)
        self._by_stem.setdefault(path.stem, []).append(path)

    def unused(self) -> list[tuple[Path, Split | None]]:
        """Return the images that were not found so far, with their splits."""
        return [(path, self._split[path]) for path in self.images if path not in self.used]

    def at(self, path: Path) -> Path | None:
        """Return the image at a path, which may hold ``..``, or None."""
        normal = Path(os.path.normpath(path))
        return normal if normal in self._split else None

    def named(self, name: str) -> list[Path]:
        """Return the images of a file name, in all folders."""
        return self._by_name.get(name, [])

    def adjacent(self, path: Path) -> list[Path]:
        """Return the images next to a file that have its stem."""
        return [image for image in self._by_stem.get(path.stem, []) if image.parent == path.parent]

    def mark_used(self, path: Path) -> None:
        """Mark the images that may belong to an unreadable file."""
        self.used.update(self.adjacent(path) or self._by_stem.get(path.stem, []))

    def find(self, name: str, near: Path, split: str | None = None) -> Path:
        """Find an image by the name in an annotation file.

        The name may be a path of another machine, also of Windows: as many of its last parts are compared as agree. Of several files that
        agree equally, the one in the folder of the split, or in ``near``, is meant.

        Args:
            name: the image in the annotation file.
            near: folder of that file.
            split: the split of the image.

        Raises:
            DataError: no image or several images have this name.
        """
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..")]
        return self._choose(self._by_name.get(parts[-1], []) if parts else [], parts, near, split, name)

    def find_stem(self, stem: str, near: Path, split: str | None = None) -> Path:
        """Find an image by its name without the extension, as ``find``."""
        parts = [part for part in re.split(r"[/\\]", stem) if part not in ("", ".", "..")]
        return self._choose(self._by_stem.get(parts[-1], []) if parts else [], parts, near, split, stem)

    def locate(self, name: str, near: Path, split: str | None = None) -> tuple[Path | None, str]:
        """Find an image like ``find``, or return why there is none."""
        try:
            return self.find(name, near, split), ""
        except DataError as error:
            return None, str(error)

    def _choose(self, paths: list[Path], parts: list[str], near: Path, split: str | None, name: str) -> Path:
        def score(path: Path) -> tuple[int, bool, bool]:
            own = (*path.parts[:-1], parts[-1])
            agreeing = next((i for i, (a, b) in enumerate(zip(reversed(parts), reversed(own), strict=False)) if a != b), len(parts))
            return agreeing, split is not None and self._split[path] == split, path.parent == near

        if not paths:
            folders = ", ".join(printable(root) for root in self.roots)
            raise DataError(f"there is no image {printable(name)!r} below {folders}. {self.hint}")
        paths = [path for path in paths if path not in self._copies] or paths
        best = max(map(score, paths))
        found = [path for path in paths if score(path) == best]
        if len(found) > 1:
            listed = ", ".join(printable(path) for path in found[:3])
            raise DataError(f"{len(found)} images are called {printable(name)!r}: {listed}. Remove or rename all but one.")
        self.used.add(found[0])
        return found[0]
