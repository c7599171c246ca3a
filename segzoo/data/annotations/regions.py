"""Annotations as the readers of all formats return them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segzoo.data.annotations.shapes import ShapeError
from segzoo.data.checks.label_survey import LabelReader
from segzoo.data.masks import LabelOrientation, Size
from segzoo.data.splits import Split
from segzoo.types import PlainDict


class Bitmap(NamedTuple):
    """Pixels of an annotation.

    Attributes:
        pixels: (h, w) boolean.
        left, top: column and row of its upper left corner in the image.
        whole: it has the size of the image.
    """

    pixels: np.ndarray
    left: int = 0
    top: int = 0
    whole: bool = False


@dataclass(frozen=True)
class Region:
    """One annotation.

    Attributes:
        id: what messages call it, such as ``annotation 17``.
        label: name of its class, of whatever type the file holds.
        shapes: shapes in the form of LabelMe files, united. Of several in one group, those inside of others are holes.
        holes: shapes in the same form, which are cut out.
        bitmap: decodes its pixels; raises ShapeError.
        problem: why it cannot be drawn, if the reader knows.
        box: its corners (left, top, right, bottom) in pixels, if the file states them.
        is_box: it is a bounding box without an outline.
        is_crowd: it covers a group of objects.
        flags: names of the flags that are set.
        z: height; higher regions cover lower ones.
        count: number of annotations in the file that it consists of.
    """

    id: str
    label: object
    shapes: tuple[PlainDict, ...] = ()
    holes: tuple[PlainDict, ...] = ()
    bitmap: Callable[[], Bitmap] | None = None
    problem: str = ""
    box: tuple[float, float, float, float] | None = None
    is_box: bool = False
    is_crowd: bool = False
    flags: tuple[str, ...] = ()
    z: int = 0
    count: int = 1


class MaskFile(NamedTuple):
    """A mask that holds the labels of an image.

    Attributes:
        path: the file.
        reader: reads it as positions in ``names``, and 255.
        names: its classes.
    """

    path: Path
    reader: LabelReader
    names: tuple[str, ...]


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its annotations.

    Attributes:
        source: the annotation file, for messages.
        name: the image as that file calls it.
        image: its file, a function that returns its content if it is embedded, or None if there is none.
        regions: annotations, in the order of the file.
        mask: labels that are stored as pixels.
        size: (H, W) that the annotations were made for, None if unknown.
        label_orientation: what the annotations fit if the image has an orientation tag, as far as the format tells.
        split: train, val, test, or None if the format does not tell.
        flags: names of the flags that are set for the whole image.
        problem: why it cannot be converted.
    """

    source: Path
    name: str
    image: Path | Callable[[], bytes] | None
    regions: tuple[Region, ...] = ()
    mask: MaskFile | None = None
    size: Size | None = None
    label_orientation: LabelOrientation | None = None
    split: Split | None = None
    flags: tuple[str, ...] = ()
    problem: str = ""


@dataclass
class Annotations:
    """Contents of the annotation files of a data set.

    Attributes:
        images: the images with their annotations.
        classes: names that the files declare, used or not.
        unlabeled: images that no file annotates, by split.
        flagged: images that are left out for their flags.
        errors: files and annotations that belong to no image, one line each.
        lost: annotations that belong to no image.
        without_pixels: annotations that say nothing about pixels, such as labels of whole images.
        notes: remarks, one line each.
        lists: pattern of the lists of the splits below the source, if the format has any; empty if they are read already.
        folder: where the names of images start, if they may lie in any folder below. Splits by name then last when images are added.
    """

    images: list[AnnotatedImage] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    unlabeled: list[tuple[Path, Split | None]] = field(default_factory=list)
    flagged: list[AnnotatedImage] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    lost: int = 0
    without_pixels: int = 0
    notes: list[str] = field(default_factory=list)
    lists: str | None = None
    folder: Path | None = None


def polygon(points: object) -> PlainDict:
    """Polygon in the form of LabelMe files."""
    return {"shape_type": "polygon", "points": points}


def rectangle(left: float, top: float, right: float, bottom: float) -> PlainDict:
    """Rectangle in the form of LabelMe files, whose last pixels are inside.

    It covers every pixel that the given one touches.
    """
    last = [max(left, math.ceil(right) - 1), max(top, math.ceil(bottom) - 1)]
    return {"shape_type": "rectangle", "points": [[left, top], last]}


def pairs(numbers: object) -> list[list[float]]:
    """Group [x1, y1, x2, y2, ...] into points.

    Raises:
        ShapeError: it is not a list of an even number of numbers.
    """
    if not isinstance(numbers, list) or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ShapeError("outline that is not a list of numbers. Redraw or delete it.")
    if len(numbers) % 2:
        raise ShapeError(f"outline of {len(numbers)} numbers, expected an even count: x and y of each point. Redraw or delete it.")
    return [list(point) for point in zip(numbers[::2], numbers[1::2], strict=True)]


def decode_runs(counts: object, size: Size, rows_first: bool) -> np.ndarray:
    """Decode run lengths, which alternate between outside and inside.

    Args:
        counts: the lengths, outside first.
        size: (H, W).
        rows_first: runs go along rows, otherwise along columns.

    Raises:
        ShapeError: they are no lengths, or do not fill the size.
    """
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ShapeError("run lengths that are not whole numbers from 0. Export it again.")
    height, width = size
    if sum(counts) != height * width:
        raise ShapeError(f"run lengths of {sum(counts)} pixels, expected {width}x{height} = {width * height}. Export it again.")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(height, width) if rows_first else inside.reshape(width, height).T


def true_flags(flags: object) -> tuple[str, ...]:
    """Names of the flags that are set in a mapping of flags."""
    return tuple(str(name) for name, value in flags.items() if value is True) if isinstance(flags, Mapping) else ()
