"""Conversion of index and color masks to train ids.

A value or color that is not in the table is an error and never becomes a class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from segzoo.data.image_io import color_codes, count_colors, printable, read_color_mask, read_mask, read_orientation
from segzoo.data.mask_diagnosis import BINARY_MASK_ERROR, mask_value_error
from segzoo.image_decoder import turn_upright
from segzoo.types import IGNORE, DataError

Size = tuple[int, int]  # (H, W)
LabelOrientation = Literal["upright", "stored"]


class IndexMasks:
    """Reader of masks that store numbers.

    ``masks(path, (H, W), orientation)`` returns (H, W) train ids as uint8, or uint16 above 255 classes.

    Args:
        num_classes: classes of the data set.
        label_map: complete table raw value -> train id. None if raw values are train ids and 255 is ignored.
        hint: how to fix an invalid value, if the data set knows more than the general diagnosis.
        label_orientation: as in ``labels_are_upright``.
    """

    def __init__(
        self,
        num_classes: int,
        label_map: dict[int, int] | None = None,
        hint: str | None = None,
        label_orientation: LabelOrientation | None = None,
    ):
        self.num_classes, self.label_map, self.hint, self.label_orientation = num_classes, label_map, hint, label_orientation
        table = dict(label_map) if label_map else {IGNORE: IGNORE} | {k: k for k in range(num_classes)}
        self._low = min(0, *table)
        size = max(IGNORE, *table) - self._low + 1
        self._train_ids = np.zeros(size, label_dtype(num_classes))
        self._invalid = np.ones(size, np.uint8)
        for raw, train_id in table.items():
            self._train_ids[raw - self._low] = train_id
            self._invalid[raw - self._low] = 0

    def __call__(self, path: Path, size: Size, orientation: int = 1) -> np.ndarray:
        raw = _turn_like_image(path, read_mask(path), size, orientation, self.label_orientation)
        if raw.dtype == np.uint8:
            label, has_invalid = self._map_uint8(raw)
        else:
            label, has_invalid = self._map_wide(raw)
        if has_invalid:
            raise DataError(f"{printable(path)}: {self._value_error(raw)}")
        if self.num_classes == 2 and not self.label_map and (raw == 0).any() and (raw == IGNORE).any() and not (raw == 1).any():
            raise DataError(f"{printable(path)}: {BINARY_MASK_ERROR}")
        return label

    def _map_uint8(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        import cv2

        start = -self._low  # OpenCV's lookup takes 1 ms per megapixel, NumPy's 8
        invalid = cv2.LUT(raw, self._invalid[start : start + 256])
        return cv2.LUT(raw, self._train_ids[start : start + 256]), bool(invalid.any())

    def _map_wide(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        index = raw.astype(np.int64) - self._low
        clipped = index.clip(0, len(self._train_ids) - 1)
        return self._train_ids[clipped], bool((self._invalid[clipped].any()) or (index != clipped).any())

    def _value_error(self, raw: np.ndarray) -> str:
        counts = count_labels(raw)
        covered = range(self._low, self._low + len(self._train_ids))
        invalid = {value: pixels for value, pixels in counts.items() if value not in covered or self._invalid[value - self._low]}
        return mask_value_error(counts, invalid, self.num_classes, self.label_map, self.hint)


class ColorMasks:
    """Reader of color masks, which are matched exactly against the palette.

    ``masks(path, (H, W), orientation)`` returns (H, W) train ids.

    Args:
        palette: one RGB triple (0..255) per class, all different.
        ignore_colors: colors of ignored pixels.
        label_orientation: as in ``labels_are_upright``.
    """

    def __init__(
        self,
        palette: tuple[tuple[int, int, int], ...],
        ignore_colors: tuple[tuple[int, int, int], ...],
        label_orientation: LabelOrientation | None = None,
    ):
        self.palette, self.ignore_colors, self.label_orientation = palette, ignore_colors, label_orientation
        self._table: np.ndarray | None = None

    def __call__(self, path: Path, size: Size, orientation: int = 1) -> np.ndarray:
        colors = _turn_like_image(path, read_color_mask(path), size, orientation, self.label_orientation)
        if self._table is None:
            self._table = self._make_table()
        ids_plus_one = self._table[color_codes(colors)]
        if not ids_plus_one.all():
            raise DataError(f"{printable(path)}: {self._color_error(colors)}")
        return (ids_plus_one - 1).astype(label_dtype(len(self.palette)))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_table": None}  # 32 MB, which each worker rebuilds in a few milliseconds

    def _make_table(self) -> np.ndarray:
        """Lookup table over the 2^24 colors.

        An entry is train id + 1, or 0 for a color of no class.
        """
        table = np.zeros(1 << 24, np.uint16)
        table[color_codes(np.array(self.palette, np.uint8))] = np.arange(1, len(self.palette) + 1)
        if self.ignore_colors:
            table[color_codes(np.array(self.ignore_colors, np.uint8))] = IGNORE + 1
        return table

    def _color_error(self, colors: np.ndarray) -> str:
        known = set(self.palette) | set(self.ignore_colors)
        unknown = [(color, pixels) for color, pixels in count_colors(colors) if color not in known]
        listed = ", ".join(f"{list(color)} ({pixels} pixels)" for color, pixels in unknown[:8])
        problem = f"holds {len(unknown)} colors that are not in data.palette: {listed}{', ...' if len(unknown) > 8 else ''}."
        if len(unknown) > 4 * len(known):
            return f"{problem} The mask looks smoothed, resized or blended: export it again without smoothing."
        return f"{problem} Correct data.palette (order R, G, B), or add colors that mean 'ignore' to data.ignore_colors."


def label_dtype(num_classes: int) -> type[np.uint8] | type[np.uint16]:
    """Smallest dtype that holds all train ids and 255: uint8 or uint16."""
    return np.uint8 if num_classes <= IGNORE else np.uint16


def count_labels(raw: np.ndarray) -> dict[int, int]:
    """Number of pixels of each value in an array, in ascending order."""
    values, counts = np.unique(raw, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def labels_are_upright(
    path: Path, actual: Size | None, size: Size, orientation: int, label_orientation: LabelOrientation | None
) -> bool:
    """Decide whether labels belong to the upright or the stored image.

    Images are read upright. Where the orientation swaps height and width, the size of the labels tells. Where it keeps the size (2, 3 and
    4, and all of a square image), ``label_orientation`` does.

    Args:
        path: the label file.
        actual: (H, W) of the labels, None if unknown.
        size: (H, W) of the upright image.
        orientation: of the stored image, 1 (upright) to 8.
        label_orientation: ``upright`` for labels drawn on the upright image, ``stored`` for labels of the stored pixels.

    Raises:
        DataError: the labels fit neither reading (they are never resized), or both and ``label_orientation`` is None.
    """
    stored_size = size if orientation < 5 else size[::-1]
    if actual is not None and actual not in (size, stored_size):
        swapped = " Height and width are swapped: was the image rotated after it was labeled?" if actual == size[::-1] else ""
        raise DataError(
            f"{printable(path)}: made for {actual[1]}x{actual[0]} pixels (W x H), but its image has {size[1]}x{size[0]}. Labels are never "
            f"resized: create them at the image's size.{swapped}"
        )
    if orientation == 1:
        return True
    if actual is not None and size != stored_size:
        return actual == size
    if label_orientation is None:
        raise DataError(
            f"{printable(path)}: its image has the EXIF orientation {orientation}, so these labels may belong to the upright image or to "
            "its stored pixels, and their size fits both. Annotation tools show images upright: set data.label_orientation=upright. Set "
            "data.label_orientation=stored if the labels were made by a program that ignores the orientation."
        )
    return label_orientation == "upright"


def _turn_like_image(
    path: Path, mask: np.ndarray, size: Size, orientation: int, label_orientation: LabelOrientation | None
) -> np.ndarray:
    """Turn a mask of stored pixels along with its image.

    A mask with an orientation tag of its own has been turned by it, and is upright.
    """
    if orientation != 1 and read_orientation(path) != 1:
        label_orientation = "upright"
    is_upright = labels_are_upright(path, (mask.shape[0], mask.shape[1]), size, orientation, label_orientation)
    return mask if is_upright else turn_upright(mask, orientation)
