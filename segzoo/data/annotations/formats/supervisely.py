"""Image projects of Supervisely: polygons with holes, bitmaps, rectangles, lines and points."""

from __future__ import annotations

import base64
import binascii
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.data.annotations.formats.json_files import read_json
from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.regions import AnnotatedImage, Annotations, Bitmap, Region, polygon
from segzoo.data.annotations.shapes import ShapeError
from segzoo.data.splits import split_of
from segzoo.image_decoder import MAX_PIXELS, ImageError, decode, open_image
from segzoo.messages import printable
from segzoo.types import DataError

MAX_BYTES = 1 << 28  # of one decompressed bitmap
KINDS = {"rectangle": "rectangle", "line": "linestrip", "polyline": "linestrip", "point": "point"}


def read_supervisely(source: Path, finder: ImageFinder) -> Annotations:
    """Read a project: ``meta.json`` and folders with ``ann`` and ``img``.

    The name of such a folder, or a tag of the image, says which split it is.
    """
    found = Annotations()
    meta_path = source / "meta.json"
    try:
        meta = read_json(meta_path)
    except DataError as error:
        raise DataError(f"{error} A project of Supervisely has this file at its top: set action.source to its folder.") from error
    classes = meta.get("classes") if isinstance(meta, dict) else None
    if not isinstance(classes, list):
        raise DataError(f"{printable(meta_path)}: has no list 'classes'. Export the project again.")
    found.classes += [str(entry.get("title")) for entry in classes if isinstance(entry, dict)]
    paths = sorted(path for path in source.rglob("*.json") if path.parent.name == "ann")
    if not paths:
        raise DataError(f"{printable(source)}: no folder 'ann' holds JSON files. Set action.source to the folder of a project.")
    for path in paths:
        try:
            found.images.append(_read_image(path, read_json(path), finder))
        except DataError as error:
            found.errors.append(str(error))
    return found


def _read_image(path: Path, content: object, finder: ImageFinder) -> AnnotatedImage:
    if not isinstance(content, dict) or not isinstance(content.get("objects"), list):
        raise DataError(f"{printable(path)}: is not an annotation of Supervisely: it has no list 'objects'. Export it again.")
    size, tags = content.get("size"), content.get("tags")
    height, width = (size.get("height"), size.get("width")) if isinstance(size, dict) else (None, None)
    tag_names = [str(tag.get("name")) for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    split = split_of(path.parent.parent.name, *tag_names)
    image, problem = finder.locate(f"img/{path.name.removesuffix('.json')}", path.parent.parent / "img", split)
    return AnnotatedImage(
        path,
        path.stem,
        image,
        tuple(_region(entry, number) for number, entry in enumerate(content["objects"], 1)),
        size=(height, width) if isinstance(height, int) and isinstance(width, int) else None,
        split=split,
        problem=problem,
    )


def _region(entry: object, number: int) -> Region:
    if not isinstance(entry, dict):
        return Region(f"object number {number}", None, problem=f"is of type {type(entry).__name__}, expected an object.")
    known = {"id": f"object {entry.get('id', f'number {number}')}", "label": entry.get("classTitle")}
    kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")
    if kind == "bitmap":
        return Region(**known, bitmap=lambda: _decode(entry.get("bitmap")))
    points = entry.get("points")
    exterior, interior = (points.get("exterior"), points.get("interior")) if isinstance(points, dict) else (None, None)
    interior = interior or []
    if kind == "polygon" and isinstance(interior, list):
        return Region(**known, shapes=(polygon(exterior),), holes=tuple(polygon(hole) for hole in interior))
    if kind not in KINDS:
        return Region(**known, problem=f"objects of the type {kind!r} are not supported. Convert it to a bitmap, or delete it.")
    return Region(**known, shapes=({"shape_type": KINDS[kind], "points": exterior},), is_box=kind == "rectangle")


def _decode(bitmap: Any) -> Bitmap:
    """Decode a bitmap: a PNG, compressed again and stored as text."""
    try:
        left, top = (int(number) for number in bitmap["origin"])
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(base64.b64decode(bitmap["data"], validate=True), MAX_BYTES)
        image = open_image(data, ("PNG",), MAX_PIXELS)
        decode(image)
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
        problem = f"({error})" if isinstance(error, ImageError) else f"({type(error).__name__}: {error})"
        raise ShapeError(f"has a bitmap that cannot be read {problem}. Export it again.") from error
    channel = image.getchannel("A") if image.mode in ("RGBA", "LA") else image.convert("L")
    return Bitmap(np.array(channel) > 0, left, top)
