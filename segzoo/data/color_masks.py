"""Conversion of color masks to train ids.

A color that is not in the table is an error and never becomes a class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from segzoo.data.checks.label_survey import Color, LabelReader, LabelSurvey, Surveys, count_labels
from segzoo.data.checks.mask_diagnosis import first_pixel, unknown_color_error
from segzoo.data.checks.mask_errors import color_errors
from segzoo.data.image_io import color_codes, count_colors, read_color_mask, read_palette_mask
from segzoo.data.masks import LabelOrientation, Size, label_dtype, turn_like_image
from segzoo.messages import printable
from segzoo.types import IGNORE, DataError

Transparent = Literal["error", "ignore", "background"]


class ColorMasks(LabelReader):
    """Reader of color masks, which are matched exactly against the palette.

    ``masks(path, (H, W), orientation)`` returns (H, W) train ids.

    Args:
        palette: one RGB triple (0..255) per class, all different.
        ignore_colors: colors of ignored pixels.
        label_orientation: as in ``labels_are_upright``.
        transparent: what fully transparent pixels mean.
        extra_colors: further color -> train id.
    """

    def __init__(
        self,
        palette: tuple[Color, ...],
        ignore_colors: tuple[Color, ...],
        label_orientation: LabelOrientation | None = None,
        transparent: Transparent = "error",
        extra_colors: dict[Color, int] | None = None,
    ):
        self.extra_colors = extra_colors or {}
        self.palette, self.ignore_colors = palette, ignore_colors
        self.label_orientation: LabelOrientation | None = label_orientation
        self.transparent: Transparent = transparent
        self.survey_key = f"color {palette} {self.extra_colors} {ignore_colors} {transparent} {label_orientation}"
        self._table: np.ndarray | None = None

    def __call__(self, path: Path, size: Size, orientation: int = 1) -> np.ndarray:
        colors, label = self._read(path, size, orientation)
        if label is None:
            raise DataError(f"{printable(path)}: holds {self.color_error(dict(count_colors(colors)), colors)}")
        return label

    def _read(self, path: Path, size: Size, orientation: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read colors (H, W, 3) and train ids (H, W).

        The train ids are None if a color is unknown.
        """
        colors, transparent = read_color_mask(path)
        if transparent is not None and self.transparent == "error":
            raise DataError(
                f"{printable(path)}: {np.count_nonzero(transparent)} pixels are transparent. Set data.transparent=background if they belong "
                "to the first class, or data.transparent=ignore."
            )
        if self._table is None:
            self._table = self._make_table()
        ids_plus_one = self._table[color_codes(colors)]
        if transparent is not None:
            ids_plus_one[transparent] = 1 if self.transparent == "background" else IGNORE + 1
        ids_plus_one = turn_like_image(path, ids_plus_one, size, orientation, self.label_orientation)
        return colors, (ids_plus_one - 1).astype(label_dtype(len(self.palette))) if ids_plus_one.all() else None

    def survey(self, path: Path, size: Size, orientation: int = 1) -> LabelSurvey:
        """Count train ids, or colors if one is unknown."""
        colors, label = self._read(path, size, orientation)
        if label is not None:
            return LabelSurvey(count_labels(label))
        counts = {int(color_codes(np.array(color))): pixels for color, pixels in count_colors(colors)}
        return LabelSurvey(colors=counts, palette=_stored_numbers(path))

    def survey_errors(self, surveys: Surveys, complete: bool) -> tuple[list[str], list[str]]:
        """Judge the masks of a split together."""
        return color_errors(surveys, self.color_error, len(self.palette)), []

    def color_error(self, counts: dict[Color, int], colors: np.ndarray) -> str:
        """Error text for colors, some of which are unknown.

        Args:
            counts: all colors of one mask or several, with their numbers of pixels.
            colors: those (H, W, 3) of the first mask with an unknown one.
        """
        known = color_codes(np.array([*self.palette, *self.extra_colors, *self.ignore_colors], np.uint8))
        first = first_pixel(~np.isin(color_codes(colors), known))
        return unknown_color_error(counts, (*self.palette, *self.extra_colors), self.ignore_colors, first)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_table": None}  # 32 MB, which each worker rebuilds in a few milliseconds

    def _make_table(self) -> np.ndarray:
        """Lookup table over the 2^24 colors.

        An entry is train id + 1, or 0 for a color of no class.
        """
        table = np.zeros(1 << 24, np.uint16)
        table[color_codes(np.array(self.palette, np.uint8))] = np.arange(1, len(self.palette) + 1)
        for color, train_id in self.extra_colors.items():
            table[color_codes(np.array(color, np.uint8))] = train_id + 1
        if self.ignore_colors:
            table[color_codes(np.array(self.ignore_colors, np.uint8))] = IGNORE + 1
        return table


def _stored_numbers(path: Path) -> dict[int, int]:
    """Numbers that a mask stores, and their colors."""
    try:
        numbers, palette = read_palette_mask(path)
    except DataError:
        return {}
    if palette is None:
        palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # gray
    return {value: int(color_codes(palette[value])) for value in count_labels(numbers) if 0 <= value < len(palette)}
