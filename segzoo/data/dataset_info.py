"""The dataset info from settings, and the errors those settings can have; nothing here opens a file."""

from __future__ import annotations

from typing import Annotated

from segzoo.registry import Range, did_you_mean
from segzoo.types import IGNORE, DatasetInfo

Color = Annotated[tuple[int, int, int], Range(0, 255)]
LabelMap = dict[Annotated[int, Range(-32768, 65535)], Annotated[int, Range(0, 65535)]]
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def make_dataset_info(
    title: str,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...] | None,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    label_map: dict[int, int] | None = None,
) -> DatasetInfo:
    """The info of a data set; without a palette each class gets a color of its own."""
    colors = distinct_colors(len(classes)) if palette is None else palette
    return DatasetInfo(title, classes, colors, mean, std, label_map=dict(label_map or {}))


def dataset_info_errors(
    classes: tuple[str, ...], palette: tuple[tuple[int, int, int], ...] | None, label_map: dict[int, int] | None = None
) -> list[str]:
    """What is wrong with the classes, palette and label map of a data set, one line each."""
    faults = []
    count = len(classes)
    if count < 2:
        faults.append(f"data.classes holds {count} name(s), wanted at least 2: the background is a class as well.")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        faults.append(f"data.classes names {', '.join(twice)} more than once; each class needs its own name.")
    if count > IGNORE and classes[IGNORE] != "ignore":
        faults.append(
            f"data.classes: with {count} classes the name at position {IGNORE} must be 'ignore' (it is {classes[IGNORE]!r}): train id "
            f"{IGNORE} counts nowhere. Put 'ignore' there and shift the raw values from {IGNORE} up by one in data.label_map."
        )
    if palette is not None and len(palette) != count:
        faults.append(f"data.palette holds {len(palette)} colors for {count} classes; wanted one a class, or null.")
    strays = sorted({train for train in (label_map or {}).values() if train >= count and train != IGNORE})
    if strays:
        faults.append(
            f"data.label_map leads to {', '.join(map(str, strays))}, but {count} classes have the train ids 0 to {count - 1}, and {IGNORE} "
            "for pixels that count nowhere. Correct the table, or add the missing classes."
        )
    return faults


def class_id(name: str, classes: tuple[str, ...]) -> int | None:
    """The train id of a class name; 255 for 'ignore'; None if there is no such class."""
    if name in classes and name != "ignore":
        return classes.index(name)
    return IGNORE if name == "ignore" else None


def unknown_class_error(name: str, choices: tuple[str, ...]) -> str:
    """`'x' is not known. Did you mean ...?` with the valid names, for messages about class names."""
    listed = ", ".join(choices[:30]) + (", ..." if len(choices) > 30 else "")
    return f"{name!r} is not known.{did_you_mean(name, choices)} Valid: {listed}."


def distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """The color table of Pascal VOC for any number of classes: the bits of the id are dealt out to the three channels."""
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append(tuple(channels))
    return tuple(colors)
