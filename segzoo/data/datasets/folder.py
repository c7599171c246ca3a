"""Images and masks in folders: CamVid, Pascal VOC and most people's own data are settings of this one data set."""

from __future__ import annotations

from typing import Annotated, Literal

from segzoo.data.dataset_info import MEAN, STD, Color, LabelMap, dataset_info_errors, make_dataset_info
from segzoo.data.file_index import FileIndex, file_index_errors
from segzoo.data.masks import ColorMasks, IndexMasks
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.splits import SPLITS, Split
from segzoo.registry import DATA, ConfigError, Range


@DATA.register
def folder(
    split: Split,
    *,
    root: str,
    classes: tuple[str, ...],
    title: str = "folder",
    images: str = "images/{split}/{stem}.*",
    labels: str = "labels/{split}/{stem}.png",
    lists: str | None = None,
    splits: dict[Split, str] = SPLITS,
    val_ratio: Annotated[float | None, Range(0, 1, above=True)] = None,
    masks: Literal["index", "color"] = "index",
    label_map: LabelMap | None = None,
    palette: tuple[Color, ...] | None = None,
    ignore_colors: tuple[Color, ...] = (),
    mean: Annotated[tuple[float, float, float], Range(0, 255)] = MEAN,
    std: Annotated[tuple[float, float, float], Range(0, 255, above=True)] = STD,
) -> PairedDataset:
    """Pairs of an image and a mask, found by patterns under a root folder.

    Args:
        split: train or val.
        root: folder of the data set.
        classes: class names; position is the train id.
        title: the data set's name, kept in checkpoints and results.
        images: where images lie, relative to root: ``{split}`` is the split's name, ``{stem}`` what an image and its mask share
            (sub-folders included), the ending ``.*`` any image format. Endings are matched in either case.
        labels: where masks lie, in the same words.
        lists: a text file with one stem a line, such as ``{split}.txt``; None takes every file that fits, and rejects images
            without a mask and masks without an image.
        splits: what train and val are called on disk.
        val_ratio: the share of images that goes to val, above 0 and at most 1, where neither folders nor lists divide them. Each
            image is drawn by the hash of its stem, so the share is met on average and new images move no old one.
        masks: index: the numbers in the mask are raw labels (palette indices, gray values of 8 or 16 bits). color: the colors are
            matched against ``palette``, exactly.
        label_map: the complete table raw value -> train id (255: counts nowhere); None where raw values are train ids.
        palette: one RGB triple a class; None gives each class a color of its own.
        ignore_colors: with ``masks=color``, the colors that count nowhere.
        mean, std: RGB statistics on the 0..255 scale.

    Raises:
        ConfigError: settings that cannot work; all of them at once.
        DataError: at first use, files that are missing or wrong.
    """
    faults = dataset_info_errors(classes, palette, label_map) + file_index_errors(split, images, labels, lists, splits, val_ratio)
    faults += _palette_errors(masks, palette, ignore_colors, label_map)
    if faults:
        raise ConfigError(faults)
    share = None if val_ratio is None else (split, val_ratio)
    tree = FileIndex(root, splits[split], images, labels, lists, share)
    info = make_dataset_info(title, classes, palette, mean, std, label_map)
    reader = ColorMasks(info.palette, ignore_colors) if masks == "color" else IndexMasks(len(classes), label_map)
    return PairedDataset(info, tree, reader)


def _palette_errors(
    masks: str,
    palette: tuple[tuple[int, int, int], ...] | None,
    ignore_colors: tuple[tuple[int, int, int], ...],
    label_map: dict[int, int] | None,
) -> list[str]:
    """Settings of color masks that contradict each other."""
    if masks == "index":
        return ["data.ignore_colors is for data.masks=color; index masks say 255, or use data.label_map."] if ignore_colors else []
    faults = []
    if label_map:
        faults.append(
            "data.label_map is for data.masks=index; colors become train ids by their place in data.palette. Set one of the two."
        )
    if palette is None:
        faults.append("data.masks=color needs data.palette: one [R, G, B] a class, in the order of data.classes.")
    colors = (*(palette or ()), *ignore_colors)
    twice = sorted({color for color in colors if colors.count(color) > 1})
    if twice:
        faults.append(
            f"data.palette and data.ignore_colors name {', '.join(str(list(c)) for c in twice)} twice; each color means one thing."
        )
    return faults
