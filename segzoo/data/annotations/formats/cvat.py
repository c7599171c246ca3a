"""XML files of CVAT, in its format "CVAT for images"."""

from __future__ import annotations

import math
import os
from pathlib import Path
from xml.etree import ElementTree

from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.regions import AnnotatedImage, Annotations, Bitmap, Region, decode_runs, polygon, rectangle
from segzoo.data.annotations.shapes import ShapeError
from segzoo.data.file_index import list_files
from segzoo.data.image_io import read_bytes
from segzoo.data.splits import split_of
from segzoo.messages import printable
from segzoo.types import DataError, PlainDict

ELLIPSE_POINTS = 90
NO_PIXELS = "tag"  # a label of the whole image


def read_cvat(source: Path, finder: ImageFinder) -> Annotations:
    """Read one XML file of CVAT, or all below a folder."""
    found = Annotations()
    paths = [source] if source.is_file() else [source / name for name in list_files(source) if name.lower().endswith(".xml")]
    for path in paths:
        try:
            root = _parse(path)
        except DataError as error:
            found.errors.append(str(error))
            continue
        if root.tag == "annotations":
            _read_file(path, root, finder, found)
        else:
            found.errors.append(f"{printable(path)}: is not a file of CVAT: it begins with <{root.tag}>, expected <annotations>.")
    return found


def _parse(path: Path) -> ElementTree.Element:
    data = read_bytes(path)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError(f"{printable(path)}: declares XML entities, which CVAT does not write. Export it again.")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise DataError(f"{printable(path)}: is not valid XML ({error}). Export it again.") from error


def _read_file(path: Path, root: ElementTree.Element, finder: ImageFinder, found: Annotations) -> None:
    if tracks := root.findall("track"):
        found.errors.append(
            f"{printable(path)}: holds {len(tracks)} tracks of a video, which state key frames only. Export the task as 'CVAT for images'."
        )
        found.lost += len(tracks)
    found.classes += [label.findtext("name", "").strip() for label in root.iterfind("meta//labels/label")]
    for element in root.iterfind("image"):
        name = element.get("name", "")
        split = split_of(element.get("subset", ""), path.stem, os.path.dirname(name))
        width, height = element.get("width", ""), element.get("height", "")
        size = (int(height), int(width)) if width.isdigit() and height.isdigit() else None
        regions = []
        for number, shape in enumerate((shape for shape in element if shape.tag != NO_PIXELS), 1):
            regions.append(_region(shape, f"{shape.tag} {number} of {name}"))
        found.without_pixels += sum(shape.tag == NO_PIXELS for shape in element)
        image, problem = finder.locate(name, path.parent, split)
        found.images.append(AnnotatedImage(path, name, image, tuple(regions), size=size, split=split, problem=problem))


def _region(element: ElementTree.Element, name: str) -> Region:
    """Read one shape."""
    z = element.get("z_order", "0")
    known = {"id": name, "label": element.get("label"), "z": int(z) if z.lstrip("-").isdigit() else 0}
    try:
        if element.tag == "mask":
            return Region(**known, bitmap=lambda: _decode(element))
        return Region(**known, shapes=(_shape(element),), is_box=element.tag == "box")
    except (KeyError, ValueError) as error:
        problem = str(error) if isinstance(error, ShapeError) else f"has invalid coordinates ({error}). Export it again."
        return Region(**known, problem=problem)


def _shape(element: ElementTree.Element) -> PlainDict:
    """Convert a shape to the form of LabelMe files."""
    if element.tag in ("polygon", "polyline", "points"):
        points = [[float(number) for number in pair.split(",")] for pair in element.attrib["points"].split(";")]
        if element.tag == "points":
            return {"shape_type": "points", "points": points}
        return {"shape_type": {"polygon": "polygon", "polyline": "linestrip"}[element.tag], "points": points}
    if element.tag == "box":
        left, top, right, bottom = (float(element.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        if float(element.get("rotation", "0")) == 0:
            return rectangle(left, top, right, bottom)
        center, corners = ((left + right) / 2, (top + bottom) / 2), [(left, top), (right, top), (right, bottom), (left, bottom)]
        offsets = [(x - center[0], y - center[1]) for x, y in corners]
    elif element.tag == "ellipse":
        center_x, center_y, radius_x, radius_y = (float(element.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
        angles = [2 * math.pi * step / ELLIPSE_POINTS for step in range(ELLIPSE_POINTS)]
        center = (center_x, center_y)
        offsets = [(radius_x * math.cos(angle), radius_y * math.sin(angle)) for angle in angles]
    else:
        raise ShapeError(f"shapes of the type {element.tag} are not supported. Redraw it as a polygon, or delete it.")
    angle = math.radians(float(element.get("rotation", "0")))
    cos, sin = math.cos(angle), math.sin(angle)
    return polygon([[center[0] + x * cos - y * sin, center[1] + x * sin + y * cos] for x, y in offsets])


def _decode(element: ElementTree.Element) -> Bitmap:
    """Decode a mask: run lengths along the rows of its box."""
    try:
        counts = [int(number) for number in element.attrib["rle"].split(",")]
        left, top, width, height = (int(float(element.attrib[key])) for key in ("left", "top", "width", "height"))
    except (KeyError, ValueError) as error:
        raise ShapeError(f"has invalid run lengths ({error}). Export it again.") from error
    return Bitmap(decode_runs(counts, (height, width), rows_first=True), left, top)
