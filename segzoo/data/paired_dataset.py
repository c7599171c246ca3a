"""The data set that every reader of files shares: pairs found at first use, one image and its labels read at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from segzoo.data.file_index import FilePair
from segzoo.data.image_io import read_image
from segzoo.data.masks import label_dtype
from segzoo.types import DatasetInfo, Sample


class PairedDataset:
    """Images with labels, by pairs of files. Making one opens nothing; the disk is first touched by ``scan``, or ``len``.

    Args:
        info: the dataset info.
        find: lists the pairs, in order.
        read_label: ``(path, (H, W)) -> (H, W)`` train ids for an image of that size.

    Raises:
        DataError: while scanning or reading, naming the file, what is wrong with it, and what to do.
    """

    def __init__(
        self, info: DatasetInfo, find: Callable[[], list[FilePair]], read_label: Callable[[Path, tuple[int, int]], np.ndarray]
    ):
        self.info = info
        self._find, self._read_label = find, read_label
        self._pairs: list[FilePair] | None = None

    def scan(self) -> list[FilePair]:
        """The pairs of this split; looks for them on the first call only."""
        if self._pairs is None:
            self._pairs = self._find()
        return self._pairs

    def __len__(self) -> int:
        return len(self.scan())

    def __getitem__(self, index: int) -> Sample:
        pair = self.scan()[index]
        image = read_image(pair.image)
        height, width = image.shape[:2]
        if pair.label is None:
            label = np.zeros((height, width), label_dtype(self.info.num_classes))
        else:
            label = self._read_label(pair.label, (height, width))
        return Sample(image, label, pair.name)

    def name(self, index: int) -> str:
        """The stem of an image; opens no file."""
        return self.scan()[index].name
