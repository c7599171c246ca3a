"""Base class of the data sets that read image and label files."""

from __future__ import annotations

from functools import partial
from typing import Literal, Protocol

import numpy as np

from segzoo.data.cache.disk import DiskCache
from segzoo.data.cache.memory import read_all
from segzoo.data.channels.reading import read_pixels
from segzoo.data.checks.label_survey import LabelReader
from segzoo.data.file_index import FilePair
from segzoo.data.jpeg_reduction import read_reduced
from segzoo.data.masks import label_dtype
from segzoo.types import DatasetInfo, Sample

CacheMode = Literal["none", "ram", "disk"]


class PairIndex(Protocol):
    """Location of the files of one split."""

    def exists(self) -> bool:
        """Return true if the folder or the list exists."""
        ...

    def check_location(self) -> None:
        """Raise DataError if the folder or the list does not exist."""
        ...

    def __call__(self) -> list[FilePair]: ...


class PairedDataset:
    """Images with labels, read from pairs of files.

    The constructor opens nothing. The first call of ``scan`` or ``len`` accesses the disk.

    Args:
        info: the dataset info.
        index: lists the pairs, in order, when it is called.
        reader: reads the label files.
        cache: where decoded samples are kept: nowhere, in memory once ``load`` has been called, or on disk.

    Raises:
        DataError: while scanning or reading; names the file, the problem and how to fix it.
    """

    def __init__(self, info: DatasetInfo, index: PairIndex, reader: LabelReader, cache: CacheMode = "none"):
        self.info, self.reader, self.cache = info, reader, cache
        self._index = index
        self._disk = DiskCache(reader, info.pixels) if cache == "disk" else None
        self._memory: list[Sample] | None = None
        self._pairs: list[FilePair] | None = None

    def exists(self) -> bool:
        """Return true if the folder or the list of the split exists."""
        return self._index.exists()

    def check_location(self) -> None:
        """Raise DataError if the folder or the list does not exist."""
        self._index.check_location()

    def scan(self) -> list[FilePair]:
        """List the pairs of this split.

        Only the first call searches the disk.
        """
        if self._pairs is None:
            self._pairs = self._index()
        return self._pairs

    def __len__(self) -> int:
        return len(self.scan())

    def load(self) -> None:
        """Read all samples into memory with ``cache=ram``.

        Processes forked afterwards share them.
        """
        if self.cache == "ram" and self._memory is None:
            self._memory = read_all(self.scan(), self._decode, self.info.pixels)

    def __getitem__(self, index: int) -> Sample:
        if self._memory is not None:
            return self._memory[index]
        pair = self.scan()[index]
        return self._disk.read(pair, partial(self._decode, pair)) if self._disk else self._decode(pair)

    def read(self, index: int, reduction: int) -> Sample:
        """Read a sample with its image at a fraction of its size.

        Args:
            index: position in the data set.
            reduction: divisor of the image's sides: 1, 2, 4 or 8.

        Returns:
            The sample with its label in full size. Its ``reduction`` is 1 if samples are cached or the image is not an upright JPEG of 8-bit RGB.
        """
        if reduction > 1 and self.cache == "none" and self.info.pixels.is_rgb:
            pair = self.scan()[index]
            if not pair.more_paths and (reduced := read_reduced(pair.image, reduction)):
                image, size = reduced
                return Sample(image, self._label(pair, size, orientation=1), pair.name, reduction=reduction)
        return self[index]

    def _decode(self, pair: FilePair) -> Sample:
        image, orientation = read_pixels(pair.images, self.info.pixels)
        return Sample(image, self._label(pair, (image.shape[0], image.shape[1]), orientation), pair.name)

    def _label(self, pair: FilePair, size: tuple[int, int], orientation: int) -> np.ndarray:
        if pair.label is None:
            return np.zeros(size, label_dtype(self.info.num_classes))
        return self.reader(pair.label, size, orientation)

    def image(self, index: int) -> np.ndarray:
        """Image (H, W, C), without opening its label."""
        return read_pixels(self.scan()[index].images, self.info.pixels)[0]

    def name(self, index: int) -> str:
        """Stem of an image, without opening a file."""
        return self.scan()[index].name
