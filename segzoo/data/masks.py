"""Conversion of index masks to train ids, and what all masks share.

A value that is not in the table is an error and never becomes a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from segzoo.data.checks.label_survey import Color, LabelReader, LabelSurvey, Surveys, count_labels
from segzoo.data.checks.mask_diagnosis import binary_mask_error, first_pixel, mask_value_error
from segzoo.data.checks.mask_errors import index_errors
from segzoo.data.image_io import ColorMaskError, color_codes, read_mask, read_orientation, read_palette_mask
from segzoo.image_decoder import turn_upright
from segzoo.messages import printable
from segzoo.types import IGNORE, DataError

Size = tuple[int, int]  # (H, W)
LabelOrientation = Literal["upright", "stored"]


class IndexMasks(LabelReader):
    """Reader of masks that store numbers.

    ``masks(path, (H, W), orientation)`` returns (H, W) train ids as uint8, or uint16 above 255 classes.

    Args:
        num_classes: classes of the data set.
        label_map: complete table raw value -> train id. None if raw values are train ids and 255 is ignored.
        hint: how to fix an invalid value, if the data set knows more than the general diagnosis.
        label_orientation: as in ``labels_are_upright``.
        palette: colors of the classes, which those of masks with a palette are compared with.
    """

    def __init__(
        self,
        num_classes: int,
        label_map: dict[int, int] | None = None,
        hint: str | None = None,
        label_orientation: LabelOrientation | None = None,
        palette: tuple[Color, ...] | None = None,
    ):
        self.num_classes, self.label_map, self.hint = num_classes, label_map, hint
        self.label_orientation: LabelOrientation | None = label_orientation
        self.palette = palette
        self.survey_key = f"index {label_orientation}"
        table = dict(label_map) if label_map else {IGNORE: IGNORE} | {k: k for k in range(num_classes)}
        self._low = min(0, *table)
        size = max(IGNORE, *table) - self._low + 1
        self._train_ids = np.zeros(size, label_dtype(num_classes))
        self._invalid = np.ones(size, np.uint8)
        for raw, train_id in table.items():
            self._train_ids[raw - self._low] = train_id
            self._invalid[raw - self._low] = 0

    def __call__(self, path: Path, size: Size, orientation: int = 1) -> np.ndarray:
        raw = turn_like_image(path, read_mask(path), size, orientation, self.label_orientation)
        if raw.dtype == np.uint8:
            label, has_invalid = self._map_uint8(raw)
        else:
            label, has_invalid = self._map_wide(raw)
        if has_invalid:
            raise DataError(f"{printable(path)}: holds {self.value_error(count_labels(raw), raw)}")
        if self.num_classes == 2 and not self.label_map and (raw == 0).any() and (raw == IGNORE).any() and not (raw == 1).any():
            raise DataError(f"{printable(path)}: holds {binary_mask_error(2)}")
        return label

    def survey(self, path: Path, size: Size, orientation: int = 1) -> LabelSurvey:
        """Count the raw values of a mask.

        Invalid values and colors are left to ``survey_errors``, which sees all masks.
        """
        try:
            raw, palette = read_palette_mask(path)
        except ColorMaskError as error:
            return LabelSurvey(colors={int(color_codes(np.array(color))): pixels for color, pixels in error.colors})
        counts = count_labels(turn_like_image(path, raw, size, orientation, self.label_orientation))
        used = [] if palette is None else [value for value in counts if value < len(palette)]
        return LabelSurvey(counts, {value: int(color_codes(palette[value])) for value in used} if palette is not None else {})

    def survey_errors(self, surveys: Surveys, complete: bool) -> tuple[list[str], list[str]]:
        """Judge the masks of a split together."""
        return index_errors(surveys, self, complete)

    def train_ids(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Convert pixels by valid raw value to pixels by train id."""
        pixels: dict[int, int] = {}
        for value, count in counts.items():
            train_id = int(self._train_ids[value - self._low])
            pixels[train_id] = pixels.get(train_id, 0) + count
        return pixels

    def _map_uint8(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        import cv2

        start = -self._low  # OpenCV's lookup takes 1 ms per megapixel, NumPy's 8
        invalid = cv2.LUT(raw, self._invalid[start : start + 256])
        return cv2.LUT(raw, self._train_ids[start : start + 256]), bool(invalid.any())

    def _map_wide(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        index = raw.astype(np.int64) - self._low
        clipped = index.clip(0, len(self._train_ids) - 1)
        return self._train_ids[clipped], bool((self._invalid[clipped].any()) or (index != clipped).any())

    def is_valid(self, value: int) -> bool:
        """Check whether a raw value has a train id."""
        return 0 <= value - self._low < len(self._invalid) and not self._invalid[value - self._low]

    def value_error(self, counts: dict[int, int], raw: np.ndarray) -> str:
        """Error text for raw values, some of which are invalid.

        Args:
            counts: all values of one mask or several, with their numbers of pixels.
            raw: the values (H, W) of the first mask with an invalid one.
        """
        invalid = {value: pixels for value, pixels in counts.items() if not self.is_valid(value)}
        first = first_pixel(np.isin(raw, list(invalid)))
        return mask_value_error(counts, invalid, self.num_classes, self.label_map, self.hint, first)


def label_dtype(num_classes: int) -> type[np.uint8] | type[np.uint16]:
    """Smallest dtype that holds all train ids and 255: uint8 or uint16."""
    return np.uint8 if num_classes <= IGNORE else np.uint16


def labels_are_upright(
    path: Path, actual: Size | None, size: Size, orientation: int, label_orientation: LabelOrientation | None
) -> bool:
    """Decide whether labels belong to the upright or the stored image.

    Images are read upright. Where the orientation swaps height and width, the size of the labels decides. Where it keeps the size (2, 3 and
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


def turn_like_image(
    path: Path, mask: np.ndarray, size: Size, orientation: int, label_orientation: LabelOrientation | None
) -> np.ndarray:
    """Turn a mask of stored pixels along with its image.

    A mask with an orientation tag of its own has been turned by it, and is upright.
    """
    if orientation != 1 and read_orientation(path) != 1:
        label_orientation = "upright"
    is_upright = labels_are_upright(path, (mask.shape[0], mask.shape[1]), size, orientation, label_orientation)
    return mask if is_upright else turn_upright(mask, orientation)
