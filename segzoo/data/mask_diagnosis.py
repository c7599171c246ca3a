"""Raw label values that fit no class, with the likely cause by name and the line that mends it."""

from __future__ import annotations

from segzoo.types import IGNORE

Counts = dict[int, int]  # raw value -> pixels


def mask_value_error(
    counts: Counts, bad: Counts, num_classes: int, label_map: dict[int, int] | None, remedy: str | None = None
) -> str:
    """Which values of a mask are no train ids, how many pixels they cover, why, and what to do.

    Args:
        counts: every raw value of the mask with its pixels.
        bad: those among them that the table, or without one the number of classes, does not provide for.
        num_classes: classes of the data set.
        label_map: the table raw value -> train id, or None where raw values are train ids.
        hint: what to do, where the data set knows better than ``diagnose``.
    """
    listed = ", ".join(f"{value} ({pixels} pixels)" for value, pixels in list(bad.items())[:8])
    more = f" and {len(bad) - 8} more" if len(bad) > 8 else ""
    where = f"which {num_classes} classes (train ids 0 to {num_classes - 1}, ignore {IGNORE}) do not have"
    if label_map:
        where = "which data.label_map does not name"
    return f"holds the values {listed}{more}, {where}. {remedy or diagnose(counts, bad, num_classes, label_map)}"


def diagnose(counts: Counts, bad: Counts, num_classes: int, label_map: dict[int, int] | None) -> str:
    """The likely cause of out-of-range values in one mask, and the hint; see ``value_fault`` for the arguments."""
    values = sorted(counts)
    low, high = values[0], max(value for value in values if value != IGNORE) if set(values) != {IGNORE} else IGNORE
    if label_map:
        first = next(iter(bad))
        return (
            f"Add a row for each to data.label_map in the data set's YAML, such as `{first}: {IGNORE}` to leave these pixels out."
        )
    if num_classes == 19 and low >= 0 and 20 <= high <= 33:
        return (
            "Values from 0 to 33 with 19 classes: these are Cityscapes labelIds. Use data=cityscapes, which maps them to train ids."
        )
    if low < 0:
        return f"A negative value usually means 'unlabeled': use {label_map_override({-1: IGNORE} | {k: k for k in range(num_classes)})}."
    if high == num_classes and 0 not in counts:
        return f"Values 1 to {high} and no 0: the masks count from one. Use {label_map_override({k: k - 1 for k in range(1, high + 1)})}."
    if high == num_classes:
        one_based = {0: IGNORE} | {k: k - 1 for k in range(1, high + 1)}
        return (
            f"One value more than classes: either data.classes lacks a name (is 0 the background?), or 0 means 'unlabeled': "
            f"then use {label_map_override(one_based)}; or {high} does: then use {label_map_override({k: k for k in range(high)} | {high: IGNORE})}."
        )
    if len(values) > max(2 * num_classes, 32):
        return f"{len(values)} different values are too many for labels: is it a photograph, or a mask that was smoothed, scaled or saved as JPEG?"
    if len(values) <= num_classes + 1 and len(values) > 1:
        spread = {value: IGNORE if value == IGNORE and len(values) > num_classes else i for i, value in enumerate(values)}
        return (
            f"{len(values)} values far apart look like gray levels for classes: use a table such as {label_map_override(spread)}."
        )
    return f"Name {high + 1} classes in data.classes, or map the values with data.label_map, such as {label_map_override({high: IGNORE})}."


BINARY = (
    "holds only 0 and 255, and 255 counts nowhere, so class 1 would never be seen. Masks of 0 and 255 are binary: use "
    "data.label_map={0:0,255:1}. If 255 does mean 'leave out', say so with data.label_map={0:0,1:1,255:255}."
)


def label_map_override(rows: Counts) -> str:
    """A table as it is typed on the command line; long ones are cut in the middle."""
    cells = [f"{raw}:{train}" for raw, train in rows.items()]
    if len(cells) > 12:
        cells = [*cells[:3], "...", cells[-1]]
    return "data.label_map={" + ",".join(cells) + "}"
