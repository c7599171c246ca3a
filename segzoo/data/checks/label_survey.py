"""Readers of label files, and their counts for checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

Color = tuple[int, int, int]


class LabelSurvey(NamedTuple):
    """Counts of one label file.

    Colors are 24-bit numbers, red first.

    Attributes:
        counts: value -> pixels. The reader of the file says whether values are raw or train ids.
        palette: index -> color, for the indices that a mask with a palette uses.
        colors: color -> pixels, if the file holds colors that its reader cannot convert; ``counts`` is then empty.
        notes: remarks to print once for all files.
    """

    counts: Mapping[int, int] = {}
    palette: Mapping[int, int] = {}
    colors: Mapping[int, int] = {}
    notes: tuple[str, ...] = ()


Surveys = Mapping[Path, LabelSurvey]


class LabelReader(ABC):
    """Reader of the label files of a data set.

    Attributes:
        survey_key: the settings that ``survey`` depends on, which identify cached results. None caches nothing.
    """

    survey_key: str | None = None

    @abstractmethod
    def __call__(self, path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
        """Read the train ids (H, W) of an upright image.

        Args:
            path: the label file.
            size: (H, W) of the image.
            orientation: orientation of the stored image, 1 to 8, see ``masks.labels_are_upright``.

        Raises:
            DataError: the file is invalid.
        """

    def survey(self, path: Path, size: tuple[int, int], orientation: int = 1) -> LabelSurvey:
        """Count the values of a label file.

        Raises:
            DataError: the file is invalid in itself. What needs all files of a split to judge is left to ``survey_errors``.
        """
        return LabelSurvey(count_labels(self(path, size, orientation)))

    def survey_errors(self, surveys: Surveys, complete: bool) -> tuple[list[str], list[str]]:
        """Judge the files of a split together.

        Args:
            surveys: what ``survey`` has returned for them.
            complete: whether these are all files of the split.

        Returns:
            Errors and notes, one line each.
        """
        return [], []

    def train_ids(self, counts: Mapping[int, int]) -> Mapping[int, int]:
        """Convert the counts of ``survey`` to pixels by train id."""
        return counts


def count_labels(values: np.ndarray) -> dict[int, int]:
    """Number of pixels of each value in an array, in ascending order."""
    if values.dtype == np.uint8:  # 3 ms per megapixel; sorting takes 30
        counts = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(values, return_counts=True)
    return {int(value): int(count) for value, count in zip(found, counts, strict=True)}


def add_counts(counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Add up pixels by value, in ascending order of the values."""
    total: Counter[int] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def decode_color(code: int) -> Color:
    """Red, green and blue of a 24-bit color."""
    return code >> 16, code >> 8 & 255, code & 255
