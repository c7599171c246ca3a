"""COCO files: polygons, run lengths and crowd regions."""

from __future__ import annotations

import os
from pathlib import Path

from segzoo.data.annotations.formats.json_files import read_json
from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.regions import (
    AnnotatedImage,
    Annotations,
    Bitmap,
    Region,
    decode_runs,
    pairs,
    polygon,
    rectangle,
)
from segzoo.data.annotations.shapes import ShapeError
from segzoo.data.file_index import list_files
from segzoo.data.masks import Size
from segzoo.data.splits import Split, split_of
from segzoo.messages import printable
from segzoo.types import DataError, PlainDict


def read_coco(source: Path, finder: ImageFinder) -> Annotations:
    """Read one COCO file, or all below a folder.

    The name or the folder of a file says which split it is, such as ``instances_train2017.json`` or ``train/_annotations.coco.json``.
    """
    found = Annotations()
    paths = [source] if source.is_file() else [source / name for name in list_files(source) if name.lower().endswith(".json")]
    for path in paths:
        try:
            content = read_json(path)
        except DataError as error:
            found.errors.append(str(error))
            continue
        if problem := _unsuitable(content):
            (found.errors if path == source else found.notes).append(f"{printable(path)}: {problem}")
        else:
            _read_file(path, content, finder, found)
    return found


def _unsuitable(content: object) -> str:
    """Say why a JSON file holds no regions in COCO's form."""
    if isinstance(content, dict) and isinstance(content.get("shapes"), list):
        return "is not a COCO file but one of LabelMe. Read it with action.format=labelme."
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "annotations")):
        return "is not a COCO file: it has no lists 'images' and 'annotations'."
    annotations = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    if annotations and all("segments_info" in entry for entry in annotations):
        return "is a panoptic COCO file, which is not read. Use the files of things (instances_*.json) or stuff (stuff_*.json)."
    if annotations and all("caption" in entry for entry in annotations):
        return "holds captions, which are left out."
    return "" if isinstance(content.get("categories"), list) else "has no list 'categories', which names the classes."


def _read_file(path: Path, content: PlainDict, finder: ImageFinder, found: Annotations) -> None:
    split = split_of(path.stem, path.parent.name)
    categories = [entry for entry in content["categories"] if isinstance(entry, dict)]
    names = {number: str(entry.get("name")) for entry in categories if (number := _number(entry.get("id"))) is not None}
    found.classes += names.values()
    regions: dict[int | str, list[Region]] = {}
    entries: list[tuple[PlainDict, list[Region]]] = []
    for entry in content["images"]:
        image_id = _number(entry.get("id")) if isinstance(entry, dict) else None
        if image_id is None or not isinstance(entry.get("file_name"), str) or image_id in regions:
            problem = "an id that another image has" if image_id in regions else "without an id and a file_name"
            found.errors.append(f"{printable(path)}: image {str(entry)[:80]} {problem}. Export it again.")
        else:
            regions[image_id] = []
            entries.append((entry, regions[image_id]))
    for number, entry in enumerate(content["annotations"], 1):
        name = f"annotation {entry.get('id', f'number {number}')}" if isinstance(entry, dict) else f"annotation number {number}"
        image_id = _number(entry.get("image_id")) if isinstance(entry, dict) else None
        if image_id is None or image_id not in regions:
            found.errors.append(
                f"{printable(path)}, {name}: belongs to the image {image_id!r}, which is not in the list of images."
            )
            found.lost += 1
        else:
            regions[image_id].append(_region(entry, name, names))
    found.images += [_image(path, entry, own, finder, split) for entry, own in entries]


def _number(value: object) -> int | str | None:
    """A whole number or an id, or None.

    Tables turn integers into floats.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int | str) else None


def _image(path: Path, entry: PlainDict, regions: list[Region], finder: ImageFinder, split: Split | None) -> AnnotatedImage:
    height, width, name = _number(entry.get("height")), _number(entry.get("width")), entry["file_name"]
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    image, problem = finder.locate(name, path.parent, split)
    return AnnotatedImage(
        path, name, image, tuple(regions), size=size, split=split or split_of(os.path.dirname(name)), problem=problem
    )


def _region(entry: PlainDict, name: str, names: dict[int | str, str]) -> Region:
    category = entry.get("category_id")
    label = names.get(number) if (number := _number(category)) is not None else None
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(number, int | float) for number in box):
        box = None
    corners = None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])
    is_crowd = entry.get("iscrowd") in (1, True)
    known = {"id": name, "label": label, "box": corners, "is_crowd": is_crowd}
    if label is None:
        return Region(**known, problem=f"has the category {category!r}, which is not in the list of categories. Export it again.")
    outline = entry.get("segmentation")
    try:
        if not outline or outline == [[]]:
            shapes = () if corners is None else (rectangle(*corners),)
            return Region(**known, shapes=shapes, is_box=True)
        if isinstance(outline, dict):
            size, counts = outline.get("size"), outline.get("counts")
            if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
                raise ShapeError(f"run lengths of the size {size!r}, expected [height, width]. Export it again.")
            return Region(**known, bitmap=lambda: _decode(counts, (size[0], size[1])))
        if not isinstance(outline, list):
            raise ShapeError(f"segmentation of type {type(outline).__name__}, expected polygons or run lengths. Export it again.")
        return Region(**known, shapes=tuple(polygon(pairs(part)) for part in outline))
    except ShapeError as error:
        return Region(**known, problem=str(error))


def _decode(counts: object, size: Size) -> Bitmap:
    if isinstance(counts, str | bytes):
        counts = decompress_counts(counts.encode() if isinstance(counts, str) else counts)
    return Bitmap(decode_runs(counts, size, rows_first=False), whole=True)


def decompress_counts(text: bytes) -> list[int]:
    """Decode COCO's text form of run lengths.

    Each number is stored in groups of five bits, lowest first, and from the fourth on as the difference from the one before last.

    Raises:
        ShapeError: the text ends within a number or has other characters.
    """
    counts: list[int] = []
    value = shift = 0
    for char in text:
        bits = char - 48
        if not 0 <= bits < 64:
            raise ShapeError("run lengths with characters that COCO does not use. Export it again.")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise ShapeError("run lengths that end within a number. Export it again.")
    return counts
