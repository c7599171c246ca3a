"""Images and masks in folders, located by patterns.

CamVid, Pascal VOC and most custom data are configurations of this data set.
"""

from __future__ import annotations

from typing import Annotated, Literal

from segzoo.data.color_masks import ColorMasks, Transparent
from segzoo.data.dataset_info import (
    Bits,
    Channels,
    ClassNames,
    Color,
    LabelMap,
    Mean,
    Palette,
    ShownChannels,
    Std,
    dataset_info_errors,
    make_dataset_info,
    unknown_class_error,
)
from segzoo.data.datasets._splits import Patterns, file_index_errors, index_split
from segzoo.data.masks import IndexMasks, LabelOrientation
from segzoo.data.paired_dataset import CacheMode, PairedDataset
from segzoo.data.splits import SPLITS, Split, SplitOrAll
from segzoo.messages import Example
from segzoo.pixel_format import PixelFormat, pixel_errors
from segzoo.registry import DATA, ConfigError, Range

ExtraColors = Annotated[dict[str, tuple[Color, ...]], Example({"road": [[255, 255, 255], [200, 200, 200]]})]


@DATA.register
def folder(
    split: SplitOrAll,
    *,
    root: str,
    classes: ClassNames,
    title: str = "folder",
    images: str | Patterns = "images/{split}/{stem}.*",
    labels: str = "labels/{split}/{stem}.png",
    lists: str | None = None,
    splits: dict[Split, str] = SPLITS,
    val_ratio: Annotated[float | None, Range(0, 1, above=True)] = None,
    group_by: str | None = None,
    masks: Literal["index", "color"] = "index",
    label_map: LabelMap | None = None,
    palette: Palette | None = None,
    extra_colors: ExtraColors | None = None,
    ignore_colors: tuple[Color, ...] = (),
    transparent: Transparent = "error",
    label_orientation: LabelOrientation | None = None,
    homepage: str | None = None,
    cache: CacheMode = "none",
    channels: Channels = 3,
    bits: Bits = 8,
    show_channels: ShownChannels | None = None,
    mean: Mean | None = None,
    std: Std | None = None,
) -> PairedDataset:
    """Images and masks below a root folder, found by patterns.

    Args:
        split: train, val, test, or all: every split that exists.
        root, title, homepage: folder of the data set, its name in checkpoints and results, and where it can be downloaded.
        classes, palette: class names, whose position is the train id, and one RGB triple each. None assigns distinct colors.
        images, labels: patterns relative to root. ``{split}`` is the name of the split, ``{stem}`` the part that an image and its
            mask share (including subfolders), and the extension ``.*`` any image format. Several patterns are files of one image.
        lists: text file with one stem per line, such as ``{split}.txt``. None uses every file, and rejects those without a partner.
        splits: names of train, val and test on disk.
        val_ratio, group_by: assignment of the images to val, if nothing else separates them; see ``RatioSplit``.
        masks: ``index``: the numbers in the mask are raw labels. ``color``: its colors are matched exactly against ``palette``.
        label_map: complete table raw value -> train id (255: ignored). None if raw values are train ids.
        extra_colors, ignore_colors, transparent: with ``masks=color``: further colors by class, those to ignore, and none at all.
        label_orientation: what the masks fit if an image has an EXIF orientation that keeps its size: ``upright`` or ``stored``.
        cache: keep decoded samples: not, in memory (ram), or in memory-mapped files (disk).
        channels, bits, show_channels, mean, std: see ``conf/data/folder.yaml``.

    Raises:
        ConfigError: the settings are invalid; lists all errors at once.
        DataError: at first use: files are missing or invalid.
    """
    errors = dataset_info_errors(classes, palette, label_map)
    errors += file_index_errors(split, images, labels, lists, splits, val_ratio, group_by)
    errors += pixel_errors(pixels := PixelFormat(channels, bits), mean, std, show_channels)
    if errors := errors + _color_errors(masks, palette, extra_colors, ignore_colors, transparent, label_map, classes):
        raise ConfigError(errors)
    index = index_split(split, root, images, labels, lists, splits, val_ratio, group_by, homepage=homepage)
    info = make_dataset_info(title, classes, palette, mean, std, label_map, pixels, show_channels)
    if masks == "index":
        return PairedDataset(info, index, IndexMasks(len(classes), label_map, None, label_orientation, palette), cache)
    extra = {color: classes.index(name) for name, colors in (extra_colors or {}).items() for color in colors}
    return PairedDataset(info, index, ColorMasks(info.palette, ignore_colors, label_orientation, transparent, extra), cache)


def _color_errors(
    masks: str,
    palette: tuple[Color, ...] | None,
    extra_colors: dict[str, tuple[Color, ...]] | None,
    ignore_colors: tuple[Color, ...],
    transparent: Transparent,
    label_map: dict[int, int] | None,
    classes: tuple[str, ...],
) -> list[str]:
    """Errors in the combination of mask type, colors and label map."""
    errors = []
    if masks == "index":
        if extra_colors:
            errors.append(
                "data.extra_colors is for data.masks=color; with index masks, data.label_map maps several values to a class."
            )
        if ignore_colors:
            errors.append("data.ignore_colors is for data.masks=color; in index masks use 255, or data.label_map.")
        if transparent != "error":
            errors.append("data.transparent is for data.masks=color; index masks have no transparent pixels. Remove it.")
        return errors
    if label_map:
        errors.append(
            "data.label_map is for data.masks=index; with color masks the position in data.palette is the train id. Set one of the two."
        )
    if palette is None:
        errors.append("data.masks=color needs data.palette: one [R, G, B] per class, in the order of data.classes.")
    unknown = [name for name in extra_colors or {} if name not in classes]
    errors += [f"data.extra_colors: the class {unknown_class_error(name, classes)}" for name in unknown]
    colors = (*(palette or ()), *ignore_colors, *(color for more in (extra_colors or {}).values() for color in more))
    repeated = sorted({color for color in colors if colors.count(color) > 1})
    if repeated:
        errors.append(
            f"data.palette, data.extra_colors and data.ignore_colors hold {', '.join(str(list(c)) for c in repeated)} more than once; each color must have "
            "one meaning."
        )
    return errors
