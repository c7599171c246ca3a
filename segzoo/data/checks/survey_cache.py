"""Cache of the surveys of label files.

It lies in the user's cache directory, because a data set may not be writable. A cache that cannot be read or written is not an error: the
files are then read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from segzoo.data.checks.label_survey import LabelSurvey
from segzoo.io import user_cache_dir, write_atomically

FORMAT = 1  # of the file, and of what a survey counts
MAX_VALUES = 4096  # a mask of more values is probably a photograph

Stamp = list[int]  # size and modification time of a label file, size and orientation of its image


class SurveyCache:
    """Surveys of the label files of one reader.

    Args:
        key: identifies the reader and its settings. None caches nothing.
    """

    def __init__(self, key: str | None):
        digest = hashlib.sha256(f"{FORMAT} {key}".encode(errors="surrogatepass")).hexdigest()[:16]
        folder = user_cache_dir()
        self._path = folder / f"labels-{digest}.json" if key is not None and folder.is_absolute() else None
        self._entries = self._load()  # before threads share it
        self._new = 0

    def get(self, path: Path, stamp: Stamp) -> LabelSurvey | None:
        """Find the survey of a file that has not changed since."""
        try:
            known, *fields, notes = self._entries[os.path.abspath(path)]
            counts, palette = ({int(value): int(count) for value, count in field.items()} for field in fields)
            return LabelSurvey(counts, palette, notes=tuple(map(str, notes))) if known == stamp else None
        except (KeyError, ValueError, TypeError, AttributeError):
            return None

    def put(self, path: Path, stamp: Stamp, survey: LabelSurvey) -> None:
        """Keep the survey of a file, unless it is unusually large."""
        if survey.counts and len(survey.counts) <= MAX_VALUES:
            self._entries[os.path.abspath(path)] = [stamp, dict(survey.counts), dict(survey.palette), list(survey.notes)]
            self._new += 1

    def save(self, minimum: int) -> None:
        """Write the cache if at least ``minimum`` surveys are new."""
        if self._path is None or self._new < minimum:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self._entries)
            write_atomically(self._path, lambda file: file.write(text.encode("ascii")))
        except (OSError, RuntimeError):
            return

    def _load(self) -> dict[str, list[Any]]:
        try:
            entries = json.loads(self._path.read_bytes()) if self._path is not None else {}
        except (OSError, ValueError, RecursionError):
            entries = {}
        return entries if isinstance(entries, dict) else {}


def label_stamp(path: Path, image: tuple[tuple[int, int], int]) -> Stamp:
    """Stamp of a label file, by which a change is noticed.

    Args:
        path: the label file.
        image: (H, W) and orientation of its image.
    """
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, *image[0], image[1]]
