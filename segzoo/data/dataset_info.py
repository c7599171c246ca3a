"""Dataset info built from settings, and the checks of those settings.

Nothing here opens a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from segzoo.class_names import class_name_errors, repeated_names
from segzoo.messages import Example, did_you_mean
from segzoo.pixel_format import MAX_CHANNELS, RGB, PixelFormat, default_normalization
from segzoo.registry import ConfigError, Range
from segzoo.types import IGNORE, DatasetInfo
from segzoo.visualization.palette import default_palette

ClassNames = Annotated[tuple[str, ...], Example(["background", "scratch"])]
Color = Annotated[tuple[int, int, int], Range(0, 255)]
Palette = Annotated[tuple[Color, ...], Example([[0, 0, 0], [255, 0, 0]])]
LabelMap = Annotated[
    dict[Annotated[int, Range(-32768, 65535)], Annotated[int, Range(0, 65535)]],
    Example({0: 0, 255: 1}),
]
Channels = Annotated[int, Range(1, MAX_CHANNELS)]
Bits = Literal[8, 16]
ShownChannels = Annotated[tuple[int, ...], Range(0, MAX_CHANNELS - 1), Example([3, 0, 1])]
Mean = Annotated[tuple[float, ...], Range(0, 65535)]
Std = Annotated[tuple[float, ...], Range(0, 65535, above=True)]


def make_dataset_info(
    title: str,
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    label_map: dict[int, int] | None = None,
    pixels: PixelFormat = RGB,
    show_channels: tuple[int, ...] | None = None,
) -> DatasetInfo:
    """Build the dataset info.

    Without a palette, each class gets a distinct color. Without mean or std, they are those of ``default_normalization``.
    """
    colors, default = default_palette(classes) if palette is None else palette, default_normalization(pixels)
    statistics = default.mean if mean is None else mean, default.std if std is None else std
    return DatasetInfo(
        title, classes, colors, *statistics, label_map=dict(label_map or {}), bits=pixels.bits, show_channels=show_channels
    )


def dataset_info_errors(
    classes: tuple[str, ...],
    palette: tuple[tuple[int, int, int], ...] | None,
    label_map: dict[int, int] | None = None,
    ignore: int = IGNORE,
) -> list[str]:
    """Errors in the settings of a data set's classes, one line each."""
    errors = [f"data.classes: {error}" for error in class_name_errors(classes)]
    count = len(classes)
    if count < 2:
        errors.append(f"data.classes holds {count} name(s), expected at least 2: the background is also a class.")
    if repeated := repeated_names(classes):
        errors.append(f"data.classes names {', '.join(repeated)} more than once; class names must be unique.")
    if count > IGNORE and classes[IGNORE] != "ignore":
        errors.append(
            f"data.classes: with {count} classes the name at position {IGNORE} must be 'ignore' (it is {classes[IGNORE]!r}) because "
            f"train id {IGNORE} is ignored. Put 'ignore' there and shift the raw values from {IGNORE} up by one in data.label_map."
        )
    if ignore != IGNORE:
        errors.append(
            f"the ignored train id is {ignore}, expected {IGNORE}: map the ignored values of the masks with data.label_map."
        )
    if palette is not None and len(palette) != count:
        errors.append(f"data.palette holds {len(palette)} colors for {count} classes; expected one per class, or null.")
    out_of_range = sorted({train_id for train_id in (label_map or {}).values() if train_id >= count and train_id != IGNORE})
    if out_of_range:
        errors.append(
            f"data.label_map maps to {', '.join(map(str, out_of_range))}, but {count} classes have the train ids 0 to {count - 1}, and "
            f"{IGNORE} for ignored pixels. Correct the table, or add the missing classes."
        )
    return errors


def class_id(name: str, classes: tuple[str, ...]) -> int | None:
    """Train id of a class name.

    Returns:
        The position in ``classes``, 255 for ``ignore``, or None if there is no such class.
    """
    if name in classes and name != "ignore":
        return classes.index(name)
    return IGNORE if name == "ignore" else None


def hidden_ids(info: DatasetInfo, hide: Sequence[str] | None) -> list[int]:
    """Train ids of the classes that stay clear in overlays.

    Args:
        info: the classes.
        hide: names of these classes. None means the background, if there is one.

    Raises:
        ConfigError: a class does not exist.
    """
    if hide is None:
        return [] if info.background is None else [info.background]
    if unknown := [name for name in hide if name not in info.classes]:
        raise ConfigError([f"hide: the class {unknown_class_error(name, info.classes)}" for name in unknown])
    return [info.classes.index(name) for name in hide]


def unknown_class_error(name: str, choices: tuple[str, ...]) -> str:
    """Error text for an unknown class name, with suggestions.

    It starts with the name, such as ``'x' is not known. Did you mean 'y'? Valid: ...``
    """
    listed = ", ".join(choices[:30]) + (", ..." if len(choices) > 30 else "")
    return f"{name!r} is not known.{did_you_mean(name, choices)} Valid: {listed}."
