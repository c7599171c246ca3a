"""Diagnosis of raw label values that belong to no class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segzoo.messages import format_override
from segzoo.types import IGNORE
from segzoo.visualization.palette import voc_palette

Counts = dict[int, int]  # raw value -> number of pixels
Color = tuple[int, int, int]
VOC_VOID = (224, 224, 192)
RARE = 0.1  # fraction of the pixels below which a value between others may come from soft edges
MAX_EDGE = 0.25  # fraction of the pixels that soft edges may cover
MAX_SMOOTHED = 16  # values between the main ones that a label map may list


def mask_value_error(
    counts: Counts,
    invalid: Counts,
    num_classes: int,
    label_map: dict[int, int] | None,
    hint: str | None = None,
    first: str = "",
) -> str:
    """Error text for invalid values: which, how many, why.

    It lacks the subject and the verb, such as ``a.png: holds``.

    Args:
        counts: every raw value of one mask or several, with its number of pixels.
        invalid: the values among them that ``label_map``, or without one the number of classes, does not cover.
        num_classes: classes of the data set.
        label_map: raw value -> train id, or None if raw values are train ids.
        hint: how to fix it, if the data set knows more than ``diagnose``.
        first: position of the first such pixel, see ``first_pixel``.
    """
    listed = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in list(invalid.items())[:8])
    more = f" and {len(invalid) - 8} more" if len(invalid) > 8 else ""
    reason = f"which are invalid for {num_classes} classes (train ids 0 to {num_classes - 1}, ignore {IGNORE})"
    if label_map:
        reason = "which are missing from data.label_map"
    return f"the values {listed}{more}, {reason}{first}. {hint or diagnose(counts, invalid, num_classes, label_map)}"


def diagnose(counts: Counts, invalid: Counts, num_classes: int, label_map: dict[int, int] | None) -> str:
    """Likely cause of invalid values, and the fix.

    The arguments are those of ``mask_value_error``.
    """
    values = sorted(counts)
    low, high = values[0], max(value for value in values if value != IGNORE) if set(values) != {IGNORE} else IGNORE
    ignored = {IGNORE: IGNORE} if IGNORE in counts else {}
    if label_map:
        override = format_override("data.label_map", label_map | dict.fromkeys(invalid, IGNORE))
        return f"Add an entry for each to data.label_map. To ignore these pixels, use {override}."
    if num_classes == 19 and low >= 0 and 20 <= high <= 33:
        return (
            "Values from 0 to 33 with 19 classes: these are Cityscapes labelIds. Use data=cityscapes, which maps them to train ids."
        )
    if smoothed := _smoothed_values(counts, num_classes):
        main = [value for value in values if value not in smoothed]
        table = {value: IGNORE if value in smoothed else main.index(value) for value in values}
        ignoring = f", or ignore these pixels with {label_map_override(table)}" if len(smoothed) <= MAX_SMOOTHED else ""
        return (
            f"{len(smoothed)} rare values lie between {', '.join(map(str, main))}: the masks have soft (anti-aliased) edges. Export them "
            f"again without smoothing{ignoring}."
        )
    if low < 0:
        override = label_map_override(dict.fromkeys(invalid, IGNORE) | {k: k for k in range(num_classes)} | ignored)
        return f"A negative value usually means 'unlabeled': use {override}."
    if high == num_classes and 0 not in counts:
        override = label_map_override({k: k - 1 for k in range(1, high + 1)} | ignored)
        return f"Values 1 to {high} and no 0: the masks count from one. Use {override}."
    if high == num_classes:
        zero_ignored = label_map_override({0: IGNORE} | {k: k - 1 for k in range(1, high + 1)} | ignored)
        last_ignored = label_map_override({k: k for k in range(high)} | {high: IGNORE} | ignored)
        return (
            f"There is one label value more than classes. If data.classes lacks a name (is 0 the background?), add it. If 0 means 'unlabeled', "
            f"use {zero_ignored}. If {high} means 'unlabeled', use {last_ignored}."
        )
    if len(values) > max(2 * num_classes, 32):
        return (
            f"{len(values)} different values are too many for labels: is it a photograph, or a mask that was smoothed, resized or "
            "saved as JPEG?"
        )
    if len(values) <= num_classes + 1 and len(values) > 1:
        spread = {value: IGNORE if value == IGNORE and len(values) > num_classes else i for i, value in enumerate(values)}
        return f"{len(values)} widely spaced values look like gray levels for classes: use {label_map_override(spread)}."
    override = label_map_override({k: k for k in range(num_classes)} | dict.fromkeys(invalid, IGNORE) | ignored)
    return f"Name {high + 1} classes in data.classes, or map the values to classes or to {IGNORE} (ignored), such as {override}."


def _smoothed_values(counts: Counts, num_classes: int) -> list[int]:
    """Values between the main ones, if soft edges explain them."""
    total, low, high = sum(counts.values()), min(counts), max(counts)
    main = [value for value in sorted(counts) if value in (low, high) or counts[value] >= RARE * total]
    between = [value for value in sorted(counts) if value not in main]
    is_gray = 2 <= len(main) <= num_classes and min(np.diff(main)) >= MAX_SMOOTHED
    is_edge = sum(counts[value] for value in between) <= MAX_EDGE * total
    return between if is_gray and is_edge and len(counts) > num_classes + 1 else []


def first_pixel(where: np.ndarray) -> str:
    """Position of the first true pixel, for the middle of a sentence."""
    row, column = np.unravel_index(int(where.argmax()), where.shape)
    return f", first at x={column}, y={row}"


def binary_mask_error(num_classes: int) -> str:
    """Error text for masks of 0 and 255 alone, without their subject."""
    binary = label_map_override({0: 0, 255: 1})
    confirmed = label_map_override({k: k for k in range(num_classes)} | {IGNORE: IGNORE})
    return (
        f"only 0 and 255, and 255 is ignored, so class 1 would never appear. Masks of 0 and 255 are usually binary: use {binary} with "
        f"two classes. If 255 does mean 'ignore', confirm it with {confirmed}."
    )


def label_map_override(table: Counts) -> str:
    """Format a label map as a command-line override."""
    return format_override("data.label_map", table)


def color_mask_fix(colors: Sequence[Color], num_classes: int) -> str:
    """Overrides that read color masks, with a palette of the colors found.

    Args:
        colors: the colors of the masks, most frequent first.
        num_classes: classes of the data set.
    """
    voc = voc_palette(256)
    ignored = [VOC_VOID] if VOC_VOID in colors else []
    own = [color for color in colors if color not in ignored]
    if all(color in voc for color in own):
        own.sort(key=voc.index)
        if own and voc.index(own[-1]) < num_classes:
            own = list(voc[:num_classes])  # also the classes that no mask shows
        order = "These are the colors of Pascal VOC, in its order"
    else:
        order = "Put the colors in the order of data.classes"
    overrides = [format_override("data.masks", "color"), format_override("data.palette", own)]
    overrides += [format_override("data.ignore_colors", ignored)] if ignored else []
    count = "" if len(own) == num_classes else f"; there are {len(own)} colors and {num_classes} classes"
    return f"use {' '.join(overrides)}. {order}{count}."


def unknown_color_error(
    counts: dict[Color, int], palette: tuple[Color, ...], ignore_colors: tuple[Color, ...], first: str = ""
) -> str:
    """Error text for masks with unknown colors, without their subject.

    Args:
        counts: every color of one mask or several, with its number of pixels.
        palette, ignore_colors: the known colors.
        first: position of the first unknown color, see ``first_pixel``.
    """
    known = {*palette, *ignore_colors}
    unknown = [color for color in sorted(counts, key=lambda color: -counts[color]) if color not in known]
    listed = ", ".join(f"{list(color)} ({counts[color]} pixels)" for color in unknown[:8]) + (", ..." if len(unknown) > 8 else "")
    problem = f"{len(unknown)} colors that are not in data.palette: {listed}{first}."
    if len(unknown) > 4 * len(known):
        return f"{problem} The masks look smoothed, resized or blended: export them again without smoothing."
    override = format_override("data.ignore_colors", [*ignore_colors, *unknown])
    return f"{problem} Correct data.palette (order R, G, B), or ignore these pixels with {override}."
