"""Search for the images that annotation files name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segzoo.data.file_index import list_files
from segzoo.data.image_io import printable
from segzoo.data.splits import split_of
from segzoo.image_decoder import SUFFIXES
from segzoo.types import DataError


class ImageFinder:
    """Index of the images below some folders.

    Args:
        roots: the folders.
        hint: what to do about an image that is not found.

    Attributes:
        used: images that were found so far.
    """

    def __init__(self, roots: Sequence[Path], hint: str):
        self.roots, self.hint = list(dict.fromkeys(roots)), hint
        files = {root / name: Path(name) for root in self.roots for name in list_files(root)}
        self.images = [path for path in files if path.suffix.lower() in SUFFIXES]
        self._split = {path: split_of(*reversed(files[path].parts[:-1])) for path in self.images}
        self.used: set[Path] = set()
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in self.images:
            self._by_name.setdefault(path.name, []).append(path)
            self._by_stem.setdefault(path.stem, []).append(path)

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
        best = max(map(score, paths))
        found = [path for path in paths if score(path) == best]
        if len(found) > 1:
            listed = ", ".join(printable(path) for path in found[:3])
            raise DataError(f"{len(found)} images are called {printable(name)!r}: {listed}. Remove or rename all but one.")
        self.used.add(found[0])
        return found[0]
