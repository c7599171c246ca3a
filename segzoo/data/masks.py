"""Masks to train ids, by number or by color; a value or color that nobody provided for is an error, never a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segzoo.data.image_io import color_codes, count_colors, printable, read_color_mask, read_mask
from segzoo.data.mask_diagnosis import BINARY, mask_value_error
from segzoo.types import IGNORE, DataError

Size = tuple[int, int]  # (H, W)


class IndexMasks:
    """Reads masks of numbers: ``masks(path, (H, W)) -> (H, W)`` train ids, uint8 (uint16 above 255 classes).

    Args:
        num_classes: classes of the data set.
        label_map: the table raw value -> train id, complete; None where raw values are train ids and 255 is ignore.
        hint: what to do about a wrong value, where the data set knows better than the general diagnosis.
    """

    def __init__(self, num_classes: int, label_map: dict[int, int] | None = None, remedy: str | None = None):
        self.num_classes, self.label_map, self.hint = num_classes, label_map, remedy
        rows = dict(label_map) if label_map else {IGNORE: IGNORE} | {k: k for k in range(num_classes)}
        self._low = min(0, *rows)
        size = max(IGNORE, *rows) - self._low + 1
        self._train = np.zeros(size, label_dtype(num_classes))
        self._unknown = np.ones(size, np.uint8)
        for raw, train in rows.items():
            self._train[raw - self._low] = train
            self._unknown[raw - self._low] = 0

    def __call__(self, path: Path, size: Size) -> np.ndarray:
        raw = read_mask(path)
        check_size(path, raw.shape, size)
        if raw.dtype == np.uint8:
            label, wrong = self._map_bytes(raw)
        else:
            label, wrong = self._map_wide(raw)
        if wrong:
            raise DataError(f"{printable(path)}: {self._value_error(raw)}")
        if self.num_classes == 2 and not self.label_map and (raw == 0).any() and (raw == IGNORE).any() and not (raw == 1).any():
            raise DataError(f"{printable(path)}: {BINARY}")
        return label

    def _map_bytes(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        import cv2

        start = -self._low  # OpenCV's look-up takes 1 ms a megapixel, NumPy's 8
        wrong = cv2.LUT(raw, self._unknown[start : start + 256])
        return cv2.LUT(raw, self._train[start : start + 256]), bool(wrong.any())

    def _map_wide(self, raw: np.ndarray) -> tuple[np.ndarray, bool]:
        row = raw.astype(np.int64) - self._low
        inside = row.clip(0, len(self._train) - 1)
        return self._train[inside], bool((self._unknown[inside].any()) or (row != inside).any())

    def _value_error(self, raw: np.ndarray) -> str:
        counts = count_labels(raw)
        rows = range(self._low, self._low + len(self._train))
        bad = {value: pixels for value, pixels in counts.items() if value not in rows or self._unknown[value - self._low]}
        return mask_value_error(counts, bad, self.num_classes, self.label_map, self.hint)


class ColorMasks:
    """Reads masks of colors: ``masks(path, (H, W)) -> (H, W)`` train ids, matched exactly against the palette.

    Args:
        palette: one RGB triple (0..255) a class, each different.
        ignore_colors: the colors of pixels that count nowhere.
    """

    def __init__(self, palette: tuple[tuple[int, int, int], ...], ignore_colors: tuple[tuple[int, int, int], ...]):
        self.palette, self.ignore_colors = palette, ignore_colors
        self._table: np.ndarray | None = None

    def __call__(self, path: Path, size: Size) -> np.ndarray:
        colors = read_color_mask(path)
        check_size(path, colors.shape[:2], size)
        if self._table is None:
            self._table = self._make_table()
        found = self._table[color_codes(colors)]
        if not found.all():
            raise DataError(f"{printable(path)}: {self._color_error(colors)}")
        return (found - 1).astype(label_dtype(len(self.palette)))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_table": None}  # 32 MB that each worker makes anew in some milliseconds

    def _make_table(self) -> np.ndarray:
        """One row for each of the 2^24 colors: train id + 1, or 0 for a color of no class."""
        rows = np.zeros(1 << 24, np.uint16)
        rows[color_codes(np.array(self.palette, np.uint8))] = np.arange(1, len(self.palette) + 1)
        if self.ignore_colors:
            rows[color_codes(np.array(self.ignore_colors, np.uint8))] = IGNORE + 1
        return rows

    def _color_error(self, colors: np.ndarray) -> str:
        known = set(self.palette) | set(self.ignore_colors)
        strays = [(color, pixels) for color, pixels in count_colors(colors) if color not in known]
        listed = ", ".join(f"{list(color)} ({pixels} pixels)" for color, pixels in strays[:8])
        came = f"holds {len(strays)} colors that are not in data.palette: {listed}{', ...' if len(strays) > 8 else ''}."
        if len(strays) > 4 * len(known):
            return f"{came} So many look like a smoothed, scaled or blended mask: export it again without smoothing."
        return f"{came} Correct data.palette (order R, G, B), or add colors that mean 'leave out' to data.ignore_colors."


def label_dtype(num_classes: int) -> type[np.uint8] | type[np.uint16]:
    """uint8 while every train id and 255 fit beside each other, else uint16."""
    return np.uint8 if num_classes <= IGNORE else np.uint16


def count_labels(raw: np.ndarray) -> dict[int, int]:
    """The values of an array with how often each occurs, in ascending order."""
    values, counts = np.unique(raw, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, counts, strict=True)}


def check_size(path: Path, came: tuple[int, ...], wanted: Size) -> None:
    """Raises DataError if the labels were not made for this image. Labels are never resized."""
    if tuple(came) == tuple(wanted):
        return
    turned = " The sides are swapped: the image may carry an EXIF turn, which is ignored; turn its pixels instead."
    raise DataError(
        f"{printable(path)}: made for {came[1]}x{came[0]} pixels (W x H), but its image has {wanted[1]}x{wanted[0]}. Labels are never "
        f"resized: make them at the image's size.{turned if tuple(came) == (wanted[1], wanted[0]) else ''}"
    )
