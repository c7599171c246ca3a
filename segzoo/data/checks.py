"""A look at a split before a training starts: some images read and counted within a time limit, and what is odd about them in words."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from segzoo.types import Dataset

HIGH_IGNORED_FRACTION = 1 / 3


@dataclass(frozen=True)
class SplitReport:
    """What a look at one split found.

    Attributes:
        images: images in the split.
        read: how many of them were read.
        sizes: (H, W) -> images of that size among those read.
        shares: class name -> share of the labeled pixels, 0 to 1; all 0 where nothing is labeled.
        ignored: share of all pixels that count nowhere, 0 to 1.
    """

    images: int
    num_read: int
    sizes: dict[tuple[int, int], int]
    class_fractions: dict[str, float]
    ignored_fraction: float

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes that no image read holds."""
        return tuple(name for name, share in self.class_fractions.items() if share == 0 and name != "ignore")

    def warnings(self) -> list[str]:
        """What is odd but valid, one line each; empty if nothing is."""
        looked = f"in {self.num_read} of {self.images} images"
        lines = []
        if self.ignored_fraction == 1:
            lines.append(f"no pixel counts {looked}: all are ignored. Check data.label_map.")
        elif self.absent:
            lines.append(
                f"{looked}, {len(self.absent)} of {len(self.class_fractions)} classes are absent: {', '.join(self.absent)}."
            )
        if HIGH_IGNORED_FRACTION < self.ignored_fraction < 1:
            lines.append(
                f"{self.ignored_fraction:.0%} of the pixels count nowhere ({looked}). Check data.label_map if that is not meant."
            )
        return lines


def inspect_split(dataset: Dataset, *, seconds: float = 2.0) -> SplitReport:
    """Reads images of a split in a fixed shuffled order until the time is up or all are read, at least one.

    Args:
        dataset: the split.
        seconds: time limit, above 0; the image being read is finished.

    Raises:
        DataError: a file is missing or wrong, or the split is empty.
    """
    end = time.monotonic() + seconds
    sizes: Counter[tuple[int, int]] = Counter()
    pixels = np.zeros(dataset.info.num_classes, np.int64)
    every = 0
    for index in np.random.default_rng(0).permutation(len(dataset)):
        label = dataset[int(index)].label
        sizes[label.shape[0], label.shape[1]] += 1
        counts = np.bincount(label.ravel(), minlength=dataset.info.ignore + 1)
        counts[dataset.info.ignore] = 0
        counts.resize(len(pixels), refcheck=False)
        pixels += counts
        every += label.size
        if time.monotonic() > end:
            break
    labeled = int(pixels.sum())
    shares = {name: int(n) / max(labeled, 1) for name, n in zip(dataset.info.classes, pixels, strict=True)}
    return SplitReport(len(dataset), sizes.total(), dict(sizes), shares, 1 - labeled / max(every, 1))
