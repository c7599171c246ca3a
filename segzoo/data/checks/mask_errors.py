"""Errors that only the masks of a whole split show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from segzoo.data.checks.label_survey import Color, Surveys, add_counts, decode_color
from segzoo.data.checks.mask_diagnosis import binary_mask_error, color_mask_fix
from segzoo.data.image_io import read_color_mask, read_mask
from segzoo.messages import format_override, printable
from segzoo.types import IGNORE


class ValueTable(Protocol):
    """Table of raw values, as in ``masks.IndexMasks``."""

    num_classes: int
    label_map: dict[int, int] | None
    palette: tuple[Color, ...] | None

    def is_valid(self, value: int) -> bool: ...

    def value_error(self, counts: dict[int, int], raw: np.ndarray) -> str: ...

    def train_ids(self, counts: Mapping[int, int]) -> dict[int, int]: ...


def index_errors(surveys: Surveys, masks: ValueTable, complete: bool) -> tuple[list[str], list[str]]:
    """Judge index masks together.

    Args:
        surveys: the counts of each mask.
        masks: their reader.
        complete: whether these are all masks of a split.

    Returns:
        Errors and notes, one line each.
    """
    errors, notes = _palette_conflicts(surveys, masks), []
    if colored := [path for path, survey in surveys.items() if survey.colors]:
        colors = _ranked_colors(surveys, colored)
        listed = ", ".join(str(list(color)) for color in colors[:8]) + (", ..." if len(colors) > 8 else "")
        subject = _subject(colored, len(surveys), "is a color image", "are color images")
        fix = f"If the colors are classes, {color_mask_fix(colors, masks.num_classes)}"
        if all(red == green == blue for red, green, blue in colors):
            fix = "They are gray: save one channel, `Image.open(path).convert('RGB').getchannel(0)`."
        errors.append(f"{subject} of {len(colors)} colors ({listed}), expected one number per pixel. {fix}")
    if invalid := [path for path, survey in surveys.items() if not all(map(masks.is_valid, survey.counts))]:
        counts = add_counts(survey.counts for survey in surveys.values())
        errors.append(f"{_subject(invalid, len(surveys), 'holds', 'hold')} {masks.value_error(counts, read_mask(invalid[0]))}")
    elif not masks.label_map and (binary := _binary_masks(surveys, masks.num_classes, complete)):
        errors.append(f"{_subject(binary, len(surveys), 'holds', 'hold')} {binary_mask_error(masks.num_classes)}")
    if not errors and masks.palette is not None:
        errors, notes = _compare_palette(surveys, masks, masks.palette)
    return errors, notes


def color_errors(surveys: Surveys, describe: Callable[[dict[Color, int], np.ndarray], str], num_classes: int) -> list[str]:
    """Judge color masks together, and return errors, one line each.

    Args:
        surveys: the counts of each mask.
        describe: error text for colors with their numbers of pixels, and the colors (H, W, 3) of the first mask with an unknown one.
        num_classes: classes of the data set.
    """
    unknown = [path for path, survey in surveys.items() if survey.colors]
    if not unknown:
        return []
    counts = add_counts(surveys[path].colors for path in unknown)
    if all(_is_index(value, num_classes) for path in unknown for value in surveys[path].palette or [-1]):
        fix = f"read them as numbers with {format_override('data.masks', 'index')}"
        listed = ", ".join(map(str, sorted({value for path in unknown for value in surveys[path].palette})[:8]))
        return [
            f"{_subject(unknown, len(surveys), 'stores', 'store')} the numbers {listed} and show them in colors that are not in "
            f"data.palette. If the numbers are classes, {fix}. If the colors are, "
            f"{color_mask_fix(_ranked_colors(surveys, unknown), num_classes)}"
        ]
    error = describe({decode_color(code): pixels for code, pixels in counts.items()}, read_color_mask(unknown[0])[0])
    return [f"{_subject(unknown, len(surveys), 'holds', 'hold')} {error}"]


def _is_index(value: int, num_classes: int) -> bool:
    return 0 <= value < num_classes or value == IGNORE


def _palette_conflicts(surveys: Surveys, masks: ValueTable) -> list[str]:
    """Find an index with two colors in the palettes of two masks."""
    first: dict[int, tuple[int, Path]] = {}
    for path, survey in surveys.items():
        for index, code in survey.palette.items():
            known, other = first.setdefault(index, (code, path))
            if known != code:
                pixels = {one: {code: survey.counts[i] for i, code in survey.palette.items()} for one, survey in surveys.items()}
                codes = add_counts(pixels.values())
                colors = [decode_color(code) for code in sorted(codes, key=lambda code: -codes[code])]
                return [
                    f"{printable(path)}: its palette gives index {index} the color {list(decode_color(code))}, but that of "
                    f"{printable(other)} gives it {list(decode_color(known))}, so the indices are no class ids. Read the colors instead: "
                    f"{color_mask_fix(colors, masks.num_classes)}"
                ]
    return []


def _compare_palette(surveys: Surveys, masks: ValueTable, palette: Sequence[Color]) -> tuple[list[str], list[str]]:
    """Compare the palettes of masks with that of the classes.

    It is an error if the masks use the same colors for other classes, and a note if they use other colors.
    """
    used = {index: (decode_color(code), path) for path, survey in surveys.items() for index, code in survey.palette.items()}
    of_class = {next(iter(masks.train_ids({index: 1}))): color_and_path for index, color_and_path in used.items()}
    differing = {i: found for i, found in of_class.items() if i != IGNORE and found[0] != palette[i]}
    if not differing:
        return [], []
    train_id, (color, path) = next(iter(differing.items()))
    found = (
        f"{printable(path)}: its palette gives class {train_id} the color {list(color)}, but data.palette {list(palette[train_id])}"
    )
    if all(color in palette for i, (color, _) in of_class.items() if i != IGNORE):
        return [
            f"{found}, which has it for class {palette.index(color)}. If the colors are right, read them with "
            f"{format_override('data.masks', 'color')}. If the indices are, set {format_override('data.palette', None)}."
        ], []
    return [], [f"{found}. The indices decide. If the colors should, set {format_override('data.masks', 'color')}."]


def _binary_masks(surveys: Surveys, num_classes: int, complete: bool) -> list[Path]:
    """Find masks of 0 and 255 alone.

    With more than two classes, all masks of a split have to be so.
    """
    binary = [path for path, survey in surveys.items() if survey.counts.keys() == {0, IGNORE}]
    if num_classes == 2:
        return binary
    return binary if complete and all(survey.counts.keys() <= {0, IGNORE} for survey in surveys.values()) else []


def _ranked_colors(surveys: Surveys, paths: list[Path]) -> list[Color]:
    counts = add_counts(surveys[path].colors for path in paths)
    return [decode_color(code) for code in sorted(counts, key=lambda code: -counts[code])]


def _subject(paths: list[Path], total: int, singular: str, plural: str) -> str:
    """Name the files of an error, with its verb."""
    first = printable(paths[0])
    return f"{first}: {singular}" if len(paths) == 1 else f"{first} and {len(paths) - 1} more of {total} masks {plural}"
