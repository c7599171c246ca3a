"""Image sizes and class frequencies of a split."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segzoo.data.channels.sample_bits import UNUSED_BITS, leaves_bits_unused
from segzoo.data.checks.label_survey import add_counts, count_labels
from segzoo.data.checks.mask_diagnosis import label_map_override
from segzoo.data.paired_dataset import PairedDataset
from segzoo.types import DataError, Dataset, DatasetInfo

HIGH_IGNORED_FRACTION = 1 / 3


@dataclass(frozen=True)
class SplitReport:
    """Image sizes and class frequencies of the images read of a split.

    Attributes:
        num_images: images in the split.
        num_read: how many of them were read.
        sizes: (H, W) -> number of read images of that size.
        class_fractions: class name -> fraction of the labeled pixels, 0 to 1; all 0 if no pixel is labeled.
        ignored_fraction: fraction of all pixels that are ignored, 0 to 1.
        notes: remarks about the label files.
        class_counts: labeled pixels of each class in each image read, (images, classes) int64.
    """

    num_images: int
    num_read: int
    sizes: dict[tuple[int, int], int]
    class_fractions: dict[str, float]
    ignored_fraction: float
    notes: tuple[str, ...] = ()
    class_counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64), compare=False, repr=False)

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes that appear in none of the images read."""
        return tuple(name for name, fraction in self.class_fractions.items() if fraction == 0 and name != "ignore")

    def warnings(self) -> list[str]:
        """Warnings about unusual but valid data, one line each."""
        sample = f"in {self.num_read} of {self.num_images} images"
        lines = list(self.notes)
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


def make_report(
    info: DatasetInfo,
    num_images: int,
    sizes: Counter[tuple[int, int]],
    counts: Sequence[Mapping[int, int]],
    notes: Iterable[str] = (),
) -> SplitReport:
    """Summarize counts.

    Args:
        info: info of the data set.
        num_images: images in the split.
        sizes: (H, W) -> number of read images of that size.
        counts: train id -> number of pixels, for each image read.
        notes: remarks about the label files.
    """
    pixels = add_counts(counts)
    total, ignored = sum(pixels.values()), pixels.get(info.ignore, 0)
    fractions = {name: pixels.get(index, 0) / max(total - ignored, 1) for index, name in enumerate(info.classes)}
    table = count_table(counts, info)
    return SplitReport(num_images, sizes.total(), dict(sizes), fractions, ignored / max(total, 1), tuple(notes), table)


def count_table(counts: Sequence[Mapping[int, int]], info: DatasetInfo) -> np.ndarray:
    """Arrange pixels by train id and image in a table.

    Args:
        counts: train id -> number of pixels, for each image. Ids that are no class are left out.
        info: info of the data set.

    Returns:
        (images, classes) int64
    """
    table = np.zeros((len(counts), info.num_classes), np.int64)
    for row, pixels in zip(table, counts, strict=True):
        for train_id, count in pixels.items():
            if train_id < info.num_classes and train_id != info.ignore:
                row[train_id] = count
    return table


def inspect_split(dataset: Dataset, *, seconds: float = 2.0, at_least: int = 1) -> SplitReport:
    """Read images of a split for a limited time and summarize them.

    Images are read in a fixed shuffled order until the time is up or all are read.

    Args:
        dataset: the split.
        seconds: time limit, above 0. The image being read when it expires is finished.
        at_least: images to read whatever the time.

    Raises:
        DataError: a file is missing or invalid, or the split is empty.
    """
    deadline = time.monotonic() + seconds
    sizes: Counter[tuple[int, int]] = Counter()
    counts: list[dict[int, int]] = []
    constant, dark = [], []
    for index in shuffled(len(dataset)):
        sample = dataset[index]
        constant += [sample.name] if is_constant(sample.image) else []
        if isinstance(dataset, PairedDataset) and leaves_bits_unused(sample.image, dataset.scan()[index].image):
            dark.append(sample.name)
        sizes[sample.label.shape[0], sample.label.shape[1]] += 1
        counts.append(count_labels(sample.label))
        if time.monotonic() > deadline and len(counts) >= at_least:
            break
    if len(constant) == len(counts):
        raise DataError(constant_error(constant))
    notes = [f"of {len(counts)} images, {len(dark)} (first {dark[0]}) {UNUSED_BITS}"] if dark else []
    return make_report(dataset.info, len(dataset), sizes, counts, notes)


def label_errors(split: str, report: SplitReport, counts: Mapping[int, int], info: DatasetInfo) -> list[str]:
    """Errors of a split whose labels hold nothing to learn.

    Args:
        split: its name.
        report: of all its files.
        counts: pixels of each value in them, in ascending order of the values.
        info: the dataset info.
    """
    values = list(counts)
    listed = f"{'value' if len(values) == 1 else 'values'} {', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}"
    if report.ignored_fraction == 1:
        goal = "learn from" if split == "train" else "score"
        override = label_map_override(info.label_map | {value: index for index, value in enumerate(values[: info.num_classes])})
        cause = f"data.label_map maps the {listed} to {info.ignore}: give them train ids, such as {override}."
        if not info.label_map:
            override = label_map_override({0: 0, info.ignore: 1})
            cause = f"Check that data.labels finds the right files. If they are binary masks, use {override} with two classes."
        return [
            f"split {split!r}: all pixels of its {report.num_images} label files are ignored: there is nothing to {goal}. {cause}"
        ]
    present = [name for name, fraction in report.class_fractions.items() if fraction > 0]
    if split != "train" or len(present) > 1:
        return []
    cause = "Check that data.labels finds the right files"
    if len(set(values) - {info.ignore}) > 1 and info.label_map:
        cause = f"data.label_map maps the {listed} to it: give each its train id"
    return [
        f"split 'train': all labeled pixels of its {report.num_images} label files are {', '.join(present)!r}: there is nothing to learn. "
        f"{cause}."
    ]


def is_constant(image: np.ndarray) -> bool:
    """Check whether all pixels (H, W, C) are equal."""
    return bool((image[0] == image[0, 0]).all() and (image == image[0, 0]).all())


def constant_error(names: list[str]) -> str:
    """Error text for images that show nothing."""
    return f"each of the {len(names)} images read shows a single color, such as {names[0]}. Check that data.images finds the right files."


def shuffled(count: int) -> list[int]:
    """Numbers below ``count`` in a fixed shuffled order."""
    return np.random.default_rng(0).permutation(count).tolist()
