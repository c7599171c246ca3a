"""Conversion of the annotations of one image to a label map."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from segzoo.data.annotations.class_table import ClassTable
from segzoo.data.annotations.drawing import draw, object_mask
from segzoo.data.annotations.regions import AnnotatedImage, Bitmap, Region
from segzoo.data.annotations.shapes import Shape, ShapeError, ShapeRules
from segzoo.data.masks import LabelOrientation, Size, label_dtype, labels_are_upright
from segzoo.image_decoder import turn_upright
from segzoo.messages import printable
from segzoo.types import IGNORE

Order = Literal["file", "area", "classes"]


@dataclass(frozen=True)
class DrawSettings:
    """Rules for drawing annotations.

    Attributes:
        table: the classes.
        order: which annotation covers others: ``file``: the later one (in CVAT, the higher one), ``area``: the smaller one,
            ``classes``: the one with the later class, and ignored regions over all.
        crowd: whether regions of crowds belong to their class, or are ignored.
        boxes: whether boxes without an outline are errors, or filled.
        ignore_flags: annotations with one of these flags are ignored.
        clip_px, line_px, skip_shapes, label_orientation: as for the data set ``labelme``.
    """

    table: ClassTable
    order: Order = "file"
    crowd: Literal["class", "ignore"] = "class"
    boxes: Literal["error", "fill"] = "error"
    ignore_flags: tuple[str, ...] = ()
    clip_px: float = 2.0
    line_px: int | None = None
    skip_shapes: tuple[str, ...] = ()
    label_orientation: LabelOrientation | None = None

    @property
    def rules(self) -> ShapeRules:
        return ShapeRules(self.table.ids, self.table.names, self.clip_px, self.line_px, self.skip_shapes, "action")


@dataclass
class Drawn:
    """Label map of an image.

    Attributes:
        label: (H, W) train ids.
        counts: number of annotations by outcome: ``drawn``, ``ignored``, ``skipped``, ``broken``.
        by_class: number of annotations drawn, by train id.
        errors: broken annotations, one line each.
        is_usable: false if the pixels of a broken annotation are unknown.
    """

    label: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)
    by_class: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    is_usable: bool = True


def draw_image(image: AnnotatedImage, size: Size, orientation: int, settings: DrawSettings) -> Drawn:
    """Draw the annotations of an upright image of size (H, W).

    Of a broken annotation, the pixels of its bounding box that nothing else covers are ignored.

    Raises:
        DataError: the annotations were made for another size, or the mask is invalid.
    """
    orientation_of_labels = image.label_orientation or settings.label_orientation
    is_upright = labels_are_upright(image.source, image.size, size, orientation, orientation_of_labels)
    drawn_size = size if is_upright or orientation < 5 else (size[1], size[0])
    drawn = Drawn(np.zeros(drawn_size, label_dtype(len(settings.table.classes))))
    covered = np.zeros(drawn_size, bool)
    broken: list[tuple[int, int, int, int]] = []
    for value, region in _ordered(image.regions, drawn_size, settings):
        try:
            mask = _mask(region, drawn_size, settings)
        except ShapeError as error:
            drawn.errors.append(_error(image, region, str(error)))
            drawn.counts["broken"] += region.count
            box = _box(region, drawn_size)
            broken += [box] if box else []
            drawn.is_usable &= box is not None
            continue
        if mask is None:
            drawn.counts["skipped"] += region.count
            continue
        if value is None:
            drawn.errors.append(_error(image, region, settings.rules.unknown_label(str(region.label))))
        drawn.counts["broken" if value is None else "ignored" if value == IGNORE else "drawn"] += region.count
        drawn.by_class[IGNORE if value is None else value] += region.count
        drawn.label[mask] = IGNORE if value is None else value
        covered |= mask
    for left, top, right, bottom in broken:
        part = np.s_[top:bottom, left:right]
        drawn.label[part][~covered[part]] = IGNORE
    if not is_upright:
        drawn.label = turn_upright(drawn.label, orientation)
    return drawn


def read_mask_file(image: AnnotatedImage, size: Size, orientation: int, settings: DrawSettings) -> Drawn:
    """Read the mask of an image and convert its classes.

    Raises:
        DataError: the mask is invalid.
    """
    assert image.mask is not None
    positions = image.mask.reader(image.mask.path, size, orientation)
    table = np.full(max(len(image.mask.names), IGNORE + 1), IGNORE, label_dtype(len(settings.table.classes)))
    unknown = []
    for position, name in enumerate(image.mask.names):
        value = settings.table.find(name)
        if value is None and (positions == position).any():
            unknown.append(name)
        table[position] = IGNORE if value is None else value
    drawn = Drawn(table[positions])
    drawn.errors += [f"{printable(image.mask.path)}: {settings.rules.unknown_label(name)}" for name in unknown]
    for value in np.unique(drawn.label):
        drawn.by_class[int(value)] += 1
    drawn.counts["drawn"] += 1
    return drawn


def _ordered(regions: tuple[Region, ...], size: Size, settings: DrawSettings) -> list[tuple[int | None, Region]]:
    """Train id of each region, in the order of drawing.

    An unknown label has None.
    """
    entries = [(_value(region, settings), region) for region in regions]
    if settings.order == "classes":
        return sorted(entries, key=lambda entry: (_rank(entry[0]), entry[1].z))
    if settings.order == "area":
        return sorted(entries, key=lambda entry: -_area(entry[1], size, settings))
    return sorted(entries, key=lambda entry: entry[1].z)


def _rank(value: int | None) -> float:
    return -1 if value is None else math.inf if value == IGNORE else value


def _value(region: Region, settings: DrawSettings) -> int | None:
    value = settings.table.find(region.label)
    is_ignored = (region.is_crowd and settings.crowd == "ignore") or not set(region.flags).isdisjoint(settings.ignore_flags)
    return IGNORE if is_ignored and value is not None else value


def _area(region: Region, size: Size, settings: DrawSettings) -> int:
    try:
        mask = _mask(region, size, settings)
    except ShapeError:
        return 0
    return 0 if mask is None else int(np.count_nonzero(mask))


def _mask(region: Region, size: Size, settings: DrawSettings) -> np.ndarray | None:
    """Pixels (H, W) of a region.

    Returns:
        A boolean array, or None if its types of shapes are left out.

    Raises:
        ShapeError: it is broken.
    """
    if region.problem:
        raise ShapeError(region.problem)
    if region.is_box and settings.boxes == "error":
        raise ShapeError("is a box without an outline. Draw the outline, or fill boxes with action.boxes=fill.")
    if region.bitmap is not None:
        return _place(region.bitmap(), size)
    rules = settings.rules
    shapes = [shape for plain in region.shapes if (shape := rules.parse_outline(plain, size)) is not None]
    if not shapes:
        return None
    if shapes[0].group is not None:
        return object_mask(shapes, size, settings.line_px)
    canvas = np.zeros(size, np.uint8)
    for shape in shapes:
        draw(canvas, shape, settings.line_px)
    holes: list[Shape] = [shape for plain in region.holes if (shape := rules.parse_outline(plain, size)) is not None]
    for hole in holes:
        draw(canvas, hole._replace(train_id=0), settings.line_px)
    return canvas > 0


def _place(bitmap: Bitmap, size: Size) -> np.ndarray:
    height, width = bitmap.pixels.shape
    fits = bitmap.left >= 0 and bitmap.top >= 0 and bitmap.top + height <= size[0] and bitmap.left + width <= size[1]
    if not fits or (bitmap.whole and (height, width) != size):
        raise ShapeError(
            f"mask of {width}x{height} pixels (W x H) at column {bitmap.left} and row {bitmap.top} of an image of {size[1]}x{size[0]}. "
            "Export it again."
        )
    mask = np.zeros(size, bool)
    mask[bitmap.top : bitmap.top + height, bitmap.left : bitmap.left + width] = bitmap.pixels
    return mask


def _box(region: Region, size: Size) -> tuple[int, int, int, int] | None:
    """Bounding box of a broken region, if known.

    It is (left, top, right, bottom) in whole pixels, clipped to the image.
    """
    corners = [region.box] if region.box else []
    for plain in region.shapes:
        points = plain.get("points") if isinstance(plain, dict) else None
        for point in points if isinstance(points, list) else ():
            if isinstance(point, list) and len(point) == 2 and all(isinstance(number, int | float) for number in point):
                corners.append((*point, *point))
    if not corners or not all(math.isfinite(number) and abs(number) < 1e9 for corner in corners for number in corner):
        return None
    left, top = (math.floor(min(corner[axis] for corner in corners)) for axis in (0, 1))
    right, bottom = (math.ceil(max(corner[axis] for corner in corners)) + 1 for axis in (2, 3))
    return max(left, 0), max(top, 0), min(max(right, 0), size[1]), min(max(bottom, 0), size[0])


def _error(image: AnnotatedImage, region: Region, problem: str) -> str:
    return f"{printable(image.source)}, {region.id} (label {region.label!r}): {problem}"
