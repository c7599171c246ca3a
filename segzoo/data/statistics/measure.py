"""Statistics of a split, from one pass over its images and labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segzoo.data.balance.class_counts import count_classes
from segzoo.data.inspection.blobs import class_blobs
from segzoo.data.statistics.channels import channel_histogram, mean_and_std
from segzoo.progress import with_progress
from segzoo.resources import cpu_cores
from segzoo.types import Dataset


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of a split.

    Attributes:
        classes: class names; position is the train id.
        class_counts: (images, classes) labeled pixels of each class in each image.
        ignored_pixels: pixels that belong to no class.
        sizes: (H, W) -> number of images.
        blobs: class name -> pixels of each of its blobs, in ascending order.
        histogram: (channels, 256 or 65536) pixels by channel and value.
    """

    classes: tuple[str, ...]
    class_counts: np.ndarray
    ignored_pixels: int
    sizes: dict[tuple[int, int], int]
    blobs: dict[str, np.ndarray]
    histogram: np.ndarray

    @property
    def class_pixels(self) -> np.ndarray:
        """Labeled pixels of each class, (classes,)."""
        return self.class_counts.sum(0)

    @property
    def class_fractions(self) -> np.ndarray:
        """Fraction of the labeled pixels of each class, (classes,)."""
        return self.class_pixels / max(self.class_counts.sum(), 1)

    @property
    def class_images(self) -> np.ndarray:
        """Images that contain each class, (classes,)."""
        return (self.class_counts > 0).sum(0)

    @property
    def num_images(self) -> int:
        return len(self.class_counts)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the images by channel."""
        return mean_and_std(self.histogram)


class _Measured(NamedTuple):
    size: tuple[int, int]
    blobs: dict[int, np.ndarray]
    histogram: np.ndarray


def measure_split(name: str, dataset: Dataset) -> SplitStatistics:
    """Measure all images and labels of a split, on all cores.

    Args:
        name: of the split, for the progress bar.
        dataset: the split.

    Raises:
        DataError: a file is missing or invalid.
    """
    info = dataset.info
    class_counts = count_classes(dataset)  # first, since it names all invalid label files and keeps the counts for a training

    def measure(index: int) -> _Measured:
        sample = dataset[index]
        image, label = sample.image, sample.label
        areas = {train_id: blobs.areas.astype(np.int64) for train_id, blobs in class_blobs(label, info)}
        return _Measured((label.shape[0], label.shape[1]), areas, channel_histogram(image))

    sizes: Counter[tuple[int, int]] = Counter()
    blobs: dict[int, list[np.ndarray]] = defaultdict(list)
    histogram = np.zeros((info.pixels.channels, info.pixels.largest + 1), np.int64)
    with ThreadPoolExecutor(cpu_cores()) as pool:
        for measured in with_progress(pool.map(measure, range(len(dataset))), len(dataset), "images", f"measuring {name}"):
            sizes[measured.size] += 1
            histogram += measured.histogram
            for train_id, found in measured.blobs.items():
                blobs[train_id].append(found)
    sorted_blobs = {
        name: np.sort(np.concatenate([np.zeros(0, np.int64), *blobs[index]])) for index, name in enumerate(info.classes)
    }
    return SplitStatistics(
        info.classes, class_counts, int(histogram[0].sum() - class_counts.sum()), dict(sizes), sorted_blobs, histogram
    )
