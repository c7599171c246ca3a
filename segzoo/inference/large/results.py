"""Results of one large image, written while it is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from segzoo.inference.large.labels import LargeImageLabeler
from segzoo.inference.large.reader import LargeImage
from segzoo.inference.large.source_rows import SourceRows
from segzoo.io import write_atomically
from segzoo.types import DatasetInfo
from segzoo.visualization.label_png import open_label_png
from segzoo.visualization.palette import Color

OVERLAY_PIXELS = 16_000_000  # larger images have a reduced overlay
Draw = Callable[[np.ndarray, np.ndarray], None]  # writes the overlay of an image (H, W, 3) and its labels (H, W)


def write_large_result(
    path: Path,
    labeler: LargeImageLabeler,
    image: LargeImage,
    info: DatasetInfo,
    values: np.ndarray | None,
    palette: Sequence[Color] | None,
    draw: Draw | None,
    check_stop: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Label an image and write its overlay and its label map.

    The file has its name only once it is complete.

    Args:
        path: the label map, see ``write_label_png``.
        labeler: labels the image.
        image: the image.
        info: the classes.
        values: (K,) value of each class in the file. None writes class ids.
        palette: colors of the values. None writes grayscale.
        draw: writes the overlay. It gets at most ``OVERLAY_PIXELS`` pixels: of larger images every n-th label in both directions, and
            the means of n x n pixels.
        check_stop: called after each tile. It raises to stop.

    Returns:
        The number of pixels of each class, (K,)

    Raises:
        DataError: the image is damaged.
        OSError: a result cannot be written.
    """
    source = SourceRows(image.rows, image.size, info, labeler.precision.device)
    reduced = Reduced(image.size) if draw else None
    areas = np.zeros(info.num_classes, np.int64)

    def write(file: BinaryIO) -> None:
        png = open_label_png(file, image.size, palette)
        for first, end, labels in labeler.strips(source, image.path.name, check_stop):
            ids = labels.cpu().numpy()
            areas[:] += np.bincount(ids.ravel(), minlength=len(areas))
            png.write(ids if values is None else values[ids])
            if reduced:
                reduced.add(source.pixels(first, end), ids)
        png.close()
        if draw and reduced:
            draw(*reduced.result())

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, write, durable=False)
    return areas


class Reduced:
    """An image and its labels at reduced size.

    They are made in strips of rows.

    Args:
        size: height and width of the image.
    """

    def __init__(self, size: tuple[int, int]):
        self.factor = min(math.ceil(math.sqrt(size[0] * size[1] / OVERLAY_PIXELS)), *size)
        self.size = size[0] // self.factor, size[1] // self.factor
        self._rows = np.empty((0, size[1], 3), np.uint8)  # that do not fill a row of the result yet
        self._labels = np.empty((0, size[1]), np.uint8)
        self._images: list[np.ndarray] = []
        self._ids: list[np.ndarray] = []

    def add(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Add rows (N, W, 3) uint8 and their labels (N, W)."""
        import cv2

        rows, ids = np.concatenate([self._rows, pixels]), np.concatenate([self._labels, labels])
        count, width, center = len(rows) // self.factor, self.size[1], self.factor // 2
        used = count * self.factor
        if count:
            self._images.append(cv2.resize(rows[:used, : width * self.factor], (width, count), interpolation=cv2.INTER_AREA))
            reduced = ids[center : used : self.factor, center :: self.factor][:, :width]
            self._ids.append(reduced.copy())  # a view would keep all ids in memory
        self._rows, self._labels = rows[used:].copy(), ids[used:].copy()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the image (h, w, 3) and labels (h, w)."""
        return np.concatenate(self._images), np.concatenate(self._ids)
