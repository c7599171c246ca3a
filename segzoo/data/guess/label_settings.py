"""Settings that fit a sample of label files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from segzoo.class_names import background_id
from segzoo.data.annotations.class_table import misspelling_notes
from segzoo.data.checks.label_survey import Color, add_counts, count_labels, decode_color
from segzoo.data.checks.mask_diagnosis import VOC_VOID
from segzoo.data.datasets.labelme import LABELME_IDS
from segzoo.data.guess.class_lists import ClassList
from segzoo.data.image_io import ColorMaskError, color_codes, count_colors, read_bytes, read_color_mask, read_palette_mask
from segzoo.messages import printable
from segzoo.types import IGNORE, DataError, PlainDict
from segzoo.visualization.palette import voc_palette

MAX_CLASSES = 64  # without a list of names; more values are probably no classes
VOID_NAMES = ("void", "unlabeled", "unlabelled", "ignore", "ignored")
Guess = tuple[PlainDict, list[str]]  # settings, and what is uncertain about them


def guess_masks(paths: Sequence[Path], listed: ClassList | None) -> Guess:
    """Guess how masks are to be read.

    Args:
        paths: the masks to read.
        listed: class names found in the same folder.

    Raises:
        DataError: they are no masks, or hold too many values.
    """
    counts, palette, is_color = [], {}, False
    for path in paths:
        try:
            values, colors = read_palette_mask(path)
        except ColorMaskError:
            is_color = True
            break
        counts.append(count_labels(values))
        if colors is not None:
            codes = color_codes(colors)
            own = {value: int(codes[value]) for value in counts[-1] if value < len(codes)}
            is_color |= any(palette.setdefault(value, code) != code for value, code in own.items())  # so indices are no classes
    if not is_color:
        return _index_settings(add_counts(counts), {value: decode_color(code) for value, code in palette.items()}, listed, paths[0])
    pixels: dict[Color, int] = {}
    for path in paths:
        for color, count in count_colors(read_color_mask(path)[0]):
            pixels[color] = pixels.get(color, 0) + count
    return _color_settings(sorted(pixels, key=lambda color: -pixels[color]), listed, paths[0])


def guess_labelme(paths: Sequence[Path]) -> Guess:
    """Guess the classes of LabelMe files: background, then all labels sorted."""
    labels = Counter[str]()
    for path in paths:
        try:
            shapes = json.loads(read_bytes(path))["shapes"]
            labels.update(str(shape["label"]).strip() for shape in shapes)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{printable(path)}: is not a LabelMe file ({type(error).__name__}: {error}).") from error
    names = sorted(labels.keys() - {*LABELME_IDS, "background"})
    if not names:
        raise DataError(f"{printable(paths[0])} and {len(paths) - 1} more LabelMe files hold no shapes, so there are no classes.")
    misspelled = misspelling_notes({name: labels[name] for name in names})
    return {"classes": ["background", *names]}, ["the classes are the labels in the files, in alphabetical order.", *misspelled]


def _index_settings(counts: Mapping[int, int], palette: Mapping[int, Color], listed: ClassList | None, first: Path) -> Guess:
    values = list(counts)
    own = [value for value in values if value != IGNORE]
    limit = max(MAX_CLASSES, len(listed.names) + 1 if listed else 0)
    if len(values) > limit:
        raise DataError(
            f"{printable(first)} and its neighbors hold {len(values)} values: are these photographs, or masks that were smoothed or resized? "
            "Export them as PNG without smoothing."
        )
    if len(values) == 1:
        raise DataError(f"{printable(first)} and its neighbors hold the value {values[0]} alone, so there is nothing to learn.")
    label_map: dict[int, int] | None = None
    if values == [0, IGNORE]:
        label_map = {0: 0, IGNORE: 1}
    elif own[-1] >= limit or own[0] < 0:  # gray levels, or -1 for unlabeled
        label_map = {value: index for index, value in enumerate(value for value in values if value >= 0)}
        label_map |= {value: IGNORE for value in values if value < 0}
    elif own[0] == 1 and not (listed and len(listed.names) == own[-1] + 1):
        label_map = {value: value - 1 for value in range(1, own[-1] + 1)} | ({IGNORE: IGNORE} if IGNORE in counts else {})
    ids = {value: value for value in range(own[-1] + 1)} if label_map is None else label_map
    size = max(train_id for train_id in ids.values() if train_id != IGNORE) + 1
    classes, remarks = _names(size, listed)
    if values == [0, IGNORE] and listed is None:
        classes, remarks = (
            ["background", "foreground"],
            ["255 is read as the second class. If it means 'ignore', remove label_map."],
        )
    colors = [
        next((palette[value] for value, train_id in ids.items() if train_id == i and value in palette), None)
        for i in range(len(classes))
    ]
    settings: PlainDict = {"classes": classes, "label_map": label_map}
    if None not in colors and len(set(colors)) == len(colors):
        settings["palette"] = [list(color) for color in colors if color]
    return settings, remarks


def _color_settings(colors: list[Color], listed: ClassList | None, first: Path) -> Guess:
    if len(colors) > max(MAX_CLASSES, len(listed.palette) + 1 if listed else 0):
        raise DataError(
            f"{printable(first)} and its neighbors hold {len(colors)} colors: are these photographs, or masks that were smoothed or saved as "
            "JPEG? Export them as PNG without smoothing."
        )
    voc, remarks = voc_palette(256), []
    if listed and set(colors) <= set(listed.palette):
        ignored = [color for name, color in zip(listed.names, listed.palette, strict=True) if name.lower() in VOID_NAMES]
        names = [name for name in listed.names if name.lower() not in VOID_NAMES]
        own = [color for color in listed.palette if color not in ignored]
        remarks.append(f"names and colors are those of {printable(listed.path)}.")
    else:
        ignored = [color for color in colors if color == VOC_VOID]
        own = [color for color in colors if color not in ignored]
        if all(color in voc for color in own):
            own.sort(key=voc.index)
        names, remarks = _names(len(own), listed)
        remarks.append(
            "the colors are those found, " + ("in VOC's order." if all(c in voc for c in own) else "the most frequent first.")
        )
    settings: PlainDict = {"classes": names, "masks": "color", "palette": [list(color) for color in own]}
    return settings | ({"ignore_colors": [list(color) for color in ignored]} if ignored else {}), remarks


def _names(size: int, listed: ClassList | None) -> tuple[list[str], list[str]]:
    """Class names for a number of classes, and remarks on them."""
    if listed and len(listed.names) >= size:
        remarks = [f"the names are those of {printable(listed.path)}, in its order."]
        if len(listed.names) == size and background_id(listed.names) is None:
            remarks.append(f"they begin without a background. If 0 is one, add it to classes before {listed.names[0]}.")
        return list(listed.names), remarks
    if listed and len(listed.names) == size - 1:
        return ["background", *listed.names], [
            f"the names are those of {printable(listed.path)}, after a background that it lacks."
        ]
    return [f"class_{index}" for index in range(size)], [f"the names class_0 to class_{size - 1} are placeholders: edit classes."]
