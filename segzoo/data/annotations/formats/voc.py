"""Masks in the layout of Pascal VOC.

CVAT exports it as "Segmentation mask".
"""

from __future__ import annotations

import re
from pathlib import Path

from segzoo.class_names import VOC_CLASSES
from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.regions import AnnotatedImage, Annotations, MaskFile
from segzoo.data.color_masks import ColorMasks
from segzoo.data.file_index import list_files
from segzoo.data.image_io import read_bytes
from segzoo.data.masks import LabelOrientation
from segzoo.messages import printable
from segzoo.types import DataError
from segzoo.visualization.palette import Color, voc_palette

MASKS, IMAGES, LABEL_MAP = "SegmentationClass", "JPEGImages", "labelmap.txt"
MASK_FOLDERS = (MASKS, "SegmentationObject", "SegmentationClassAug")
VOID: Color = (224, 224, 192)


def read_voc(source: Path, finder: ImageFinder, label_orientation: LabelOrientation | None = None) -> Annotations:
    """Read the masks in ``SegmentationClass`` of a folder.

    Classes and colors are those of ``labelmap.txt``, or else of Pascal VOC. Its void color is ignored.
    """
    root = _root(source)
    colors = _colors(root / LABEL_MAP) if (root / LABEL_MAP).is_file() else dict(zip(VOC_CLASSES, voc_palette(21), strict=True))
    ignored = () if VOID in colors.values() else (VOID,)
    reader = ColorMasks(tuple(colors.values()), ignored, label_orientation)
    lists = root.relative_to(source) / "ImageSets/Segmentation/{split}.txt"
    found = Annotations(classes=list(colors), lists=str(lists))
    for name in list_files(root / MASKS):
        path = root / MASKS / name
        if path.suffix.lower() != ".png":
            continue
        image, problem = None, ""
        try:
            image = finder.find_stem(f"{IMAGES}/{name.removesuffix(path.suffix)}", root / IMAGES)
        except DataError as error:
            problem = str(error)
        mask = MaskFile(path, reader, tuple(colors))
        found.images.append(AnnotatedImage(path, path.stem, image, mask=mask, problem=problem))
    if not found.images:
        raise DataError(f"{printable(root / MASKS)}: holds no PNG files. Set action.source to the folder of {MASKS}.")
    return found


def _root(source: Path) -> Path:
    """Find the folder that holds the masks, at or below the source."""
    roots = [source] if (source / MASKS).is_dir() else sorted(path.parent for path in source.rglob(MASKS) if path.is_dir())
    if len(roots) != 1:
        listed = ", ".join(printable(root) for root in roots[:5]) or "none"
        raise DataError(f"{printable(source)}: expected one folder with {MASKS}, found {listed}. Set action.source to it.")
    return roots[0]


def _colors(path: Path) -> dict[str, Color]:
    """Read a label map with lines ``name:r,g,b:parts:actions``.

    In one without colors, the classes have those of Pascal VOC in the order of the lines.
    """
    lines = [line.strip() for line in read_bytes(path).decode("utf-8-sig", "replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    matches = [re.fullmatch(r"(.+?):(?:(\d{1,3}),(\d{1,3}),(\d{1,3}))?(?::.*)?", line) for line in lines]
    if lines and all(match is not None and match[2] is None for match in matches):
        return dict(zip([match[1] for match in matches if match], voc_palette(len(lines)), strict=True))
    colors: dict[str, Color] = {}
    for line, match in zip(lines, matches, strict=True):
        color = tuple(256 if value is None else int(value) for value in match.groups()[1:]) if match else (256,)
        if match is None or max(color) > 255 or color in colors.values() or match[1] in colors:
            raise DataError(f"{printable(path)}: {line!r}, expected name:red,green,blue:: with a name and a color of its own.")
        colors[match[1]] = color  # type: ignore[assignment]
    return colors
