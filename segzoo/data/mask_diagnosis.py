"""Diagnosis of raw label values that belong to no class."""

from __future__ import annotations

from segzoo.types import IGNORE

Counts = dict[int, int]  # raw value -> number of pixels


def mask_value_error(
    counts: Counts, invalid: Counts, num_classes: int, label_map: dict[int, int] | None, hint: str | None = None
) -> str:
    """Error text for a mask with invalid values: which, how many, why.

    Args:
        counts: every raw value of the mask with its number of pixels.
        invalid: the values among them that ``label_map``, or without one the number of classes, does not cover.
        num_classes: classes of the data set.
        label_map: raw value -> train id, or None if raw values are train ids.
        hint: how to fix it, if the data set knows more than ``diagnose``.
    """
    listed = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in list(invalid.items())[:8])
    more = f" and {len(invalid) - 8} more" if len(invalid) > 8 else ""
    reason = f"which are invalid for {num_classes} classes (train ids 0 to {num_classes - 1}, ignore {IGNORE})"
    if label_map:
        reason = "which are missing from data.label_map"
    return f"holds the values {listed}{more}, {reason}. {hint or diagnose(counts, invalid, num_classes, label_map)}"


def diagnose(counts: Counts, invalid: Counts, num_classes: int, label_map: dict[int, int] | None) -> str:
    """Likely cause of invalid values in one mask, and the fix.

    The arguments are those of ``mask_value_error``.
    """
    values = sorted(counts)
    low, high = values[0], max(value for value in values if value != IGNORE) if set(values) != {IGNORE} else IGNORE
    if label_map:
        first = next(iter(invalid))
        return (
            f"Add an entry for each to data.label_map in the data set's YAML, such as `{first}: {IGNORE}` to ignore these pixels."
        )
    if num_classes == 19 and low >= 0 and 20 <= high <= 33:
        return (
            "Values from 0 to 33 with 19 classes: these are Cityscapes labelIds. Use data=cityscapes, which maps them to train ids."
        )
    if low < 0:
        override = label_map_override({-1: IGNORE} | {k: k for k in range(num_classes)})
        return f"A negative value usually means 'unlabeled': use {override}."
    if high == num_classes and 0 not in counts:
        override = label_map_override({k: k - 1 for k in range(1, high + 1)})
        return f"Values 1 to {high} and no 0: the masks count from one. Use {override}."
    if high == num_classes:
        zero_ignored = label_map_override({0: IGNORE} | {k: k - 1 for k in range(1, high + 1)})
        last_ignored = label_map_override({k: k for k in range(high)} | {high: IGNORE})
        return (
            f"There is one value more than classes. If data.classes lacks a name (is 0 the background?), add it. If 0 means 'unlabeled', "
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
    override = label_map_override({high: IGNORE})
    return f"Name {high + 1} classes in data.classes, or map the values with data.label_map, such as {override}."


BINARY_MASK_ERROR = (
    "holds only 0 and 255, and 255 is ignored, so class 1 would never appear. Masks of 0 and 255 are usually binary: use "
    "data.label_map={0:0,255:1}. If 255 does mean 'ignore', confirm it with data.label_map={0:0,1:1,255:255}."
)


def label_map_override(table: Counts) -> str:
    """Format a label map as a command-line override.

    Tables of more than 12 entries are abbreviated in the middle.
    """
    entries = [f"{raw}:{train_id}" for raw, train_id in table.items()]
    if len(entries) > 12:
        entries = [*entries[:3], "...", entries[-1]]
    return "data.label_map={" + ",".join(entries) + "}"
