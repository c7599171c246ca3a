"""Checks of a data set split before training starts."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from segzoo.types import Dataset

HIGH_IGNORED_FRACTION = 1 / 3


@dataclass(frozen=True)
class SplitReport:
    """Image sizes and class frequencies in a sample of one split.

    Attributes:
        num_images: images in the split.
        num_read: how many of them were read.
        sizes: (H, W) -> number of read images of that size.
        class_fractions: class name -> fraction of the labeled pixels, 0 to 1; all 0 if no pixel is labeled.
        ignored_fraction: fraction of all pixels that are ignored, 0 to 1.
    """

    num_images: int
    num_read: int
    sizes: dict[tuple[int, int], int]
    class_fractions: dict[str, float]
    ignored_fraction: float

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes that appear in none of the images read."""
        return tuple(name for name, fraction in self.class_fractions.items() if fraction == 0 and name != "ignore")

    def warnings(self) -> list[str]:
        """Warnings about unusual but valid data, one line each."""
        sample = f"in {self.num_read} of {self.num_images} images"
        lines = []
        if self.ignored_fraction == 1:
            lines.append(f"{sample}, all pixels are ignored. Check data.label_map.")
        elif self.absent_classes:
            absent = self.absent_classes
            lines.append(f"{sample}, {len(absent)} of {len(self.class_fractions)} classes are absent: {', '.join(absent)}.")
        if HIGH_IGNORED_FRACTION < self.ignored_fraction < 1:
            lines.append(
                f"{self.ignored_fraction:.0%} of the pixels are ignored ({sample}). If that is unintended, check data.label_map."
            )
        return lines


def inspect_split(dataset: Dataset, *, seconds: float = 2.0) -> SplitReport:
    """Read images of a split for a limited time and summarize them.

    Images are read in a fixed shuffled order until the time is up or all are read. At least one image is read.

    Args:
        dataset: the split.
        seconds: time limit, above 0. The image being read when it expires is finished.

    Raises:
        DataError: a file is missing or invalid, or the split is empty.
    """
    deadline = time.monotonic() + seconds
    sizes: Counter[tuple[int, int]] = Counter()
    class_pixels = np.zeros(dataset.info.num_classes, np.int64)
    total_pixels = 0
    for index in np.random.default_rng(0).permutation(len(dataset)):
        label = dataset[int(index)].label
        sizes[label.shape[0], label.shape[1]] += 1
        counts = np.bincount(label.ravel(), minlength=dataset.info.ignore + 1)
        counts[dataset.info.ignore] = 0
        counts.resize(len(class_pixels), refcheck=False)
        class_pixels += counts
        total_pixels += label.size
        if time.monotonic() > deadline:
            break
    labeled = int(class_pixels.sum())
    fractions = {name: int(n) / max(labeled, 1) for name, n in zip(dataset.info.classes, class_pixels, strict=True)}
    return SplitReport(len(dataset), sizes.total(), dict(sizes), fractions, 1 - labeled / max(total_pixels, 1))
