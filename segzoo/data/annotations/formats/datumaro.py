"""Formats that the package Datumaro reads.

Datumaro passes over what it cannot read. So its errors and warnings are collected, and for its own format the annotations are counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segzoo.data.annotations.formats.json_files import read_json
from segzoo.data.annotations.image_finder import ImageFinder
from segzoo.data.annotations.regions import AnnotatedImage, Annotations, Bitmap, Region, pairs, polygon, rectangle
from segzoo.data.splits import split_of
from segzoo.messages import printable
from segzoo.registry import ConfigError
from segzoo.types import DataError

if TYPE_CHECKING:
    from datumaro.components.annotation import Annotation  # pyright: ignore[reportMissingImports]
    from datumaro.components.dataset_base import DatasetItem  # pyright: ignore[reportMissingImports]
    from datumaro.components.errors import DatumaroError  # pyright: ignore[reportMissingImports]

NO_PIXELS = ("label", "caption")


def read_datumaro(source: Path, finder: ImageFinder, plugin: str) -> Annotations:
    """Read a data set with Datumaro.

    Args:
        source: its folder.
        finder: finds images that are not where Datumaro expects them.
        plugin: Datumaro's name of the format.

    Raises:
        ConfigError: Datumaro is not installed.
        DataError: Datumaro cannot read the data set at all.
    """
    try:
        from datumaro.components.annotation import AnnotationType  # pyright: ignore[reportMissingImports]
        from datumaro.components.contexts.importer import ImportErrorPolicy  # pyright: ignore[reportMissingImports]
        from datumaro.components.dataset import Dataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(f'action.format=datumaro needs {error.name}: pip install "segzoo[annotations]"') from None

    found = Annotations()

    class Collect(ImportErrorPolicy):
        """Note an error and let the rest go on."""

        def _handle_item_error(self, error: DatumaroError) -> None:
            found.errors.append(f"{printable(source)}, image {error.item_id[0]!r}: {error.__cause__}")

        def _handle_annotation_error(self, error: DatumaroError) -> None:
            found.errors.append(f"{printable(source)}, annotation {error.item_id[0]!r}: {error.__cause__}")
            found.lost += 1

    try:
        with _warnings(found.notes):
            dataset = Dataset.import_from(str(source), plugin, error_policy=Collect())
            items = list(dataset)
    except Exception as error:  # its readers raise almost anything
        raise DataError(f"{printable(source)}: Datumaro cannot read it as {plugin!r}: {error or type(error).__name__}") from error
    names = [label.name for label in dataset.categories().get(AnnotationType.label, ())]
    found.classes += names
    found.images += [_read_item(source, item, names, finder, found) for item in items]
    if plugin == "datumaro":
        _check_counts(source, items, found)
    return found


@contextmanager
def _warnings(notes: list[str]) -> Iterator[None]:
    """Collect what is logged as a warning."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: notes.append(f"Datumaro: {record.getMessage()}")
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def _check_counts(source: Path, items: list[DatasetItem], found: Annotations) -> None:
    """Compare the number of annotations read with that in the JSON files."""
    written = 0
    for path in sorted((source / "annotations").glob("*.json")):
        for entry in read_json(path).get("items", []):
            written += len(entry.get("annotations", []))
    read = sum(len(item.annotations) for item in items) + found.lost
    if read != written:
        found.errors.append(f"{printable(source)}: its files hold {written} annotations, of which Datumaro returned {read}.")
        found.lost += max(written - read, 0)


def _read_item(source: Path, item: DatasetItem, names: list[str], finder: ImageFinder, found: Annotations) -> AnnotatedImage:
    split, path = split_of(item.subset), getattr(item.media, "path", None)
    image, problem = Path(path) if path and Path(path).is_file() else None, ""
    if image is None:
        try:
            image = finder.find_stem(item.id, source, split)
        except DataError as error:
            problem = str(error)
    else:
        finder.used.add(image)
    with_outline = {
        annotation.group for annotation in item.annotations if annotation.type.name in ("polygon", "mask") and annotation.group
    }
    regions = []
    for number, annotation in enumerate(item.annotations, 1):
        kind = annotation.type.name
        if kind in NO_PIXELS or (kind == "bbox" and annotation.group in with_outline):
            found.without_pixels += 1
        else:
            regions.append(_region(annotation, f"annotation {annotation.id or f'number {number}'} of {item.id}", names))
    return AnnotatedImage(source, item.id, image, tuple(regions), split=split, problem=problem)


def _region(annotation: Annotation, name: str, names: list[str]) -> Region:
    number, kind = annotation.label, annotation.type.name
    label = names[number] if isinstance(number, int) and 0 <= number < len(names) else None
    known = {"id": name, "label": label, "z": annotation.z_order, "is_crowd": annotation.attributes.get("is_crowd") is True}
    if label is None:
        return Region(**known, problem=f"has the label {number!r}, which is not in the list of classes. Export it again.")
    if kind == "mask":
        return Region(**known, bitmap=lambda: Bitmap(np.asarray(annotation.image).astype(bool), whole=True))
    if kind == "rotated_bbox":
        return Region(**known, shapes=(polygon([list(point) for point in annotation.as_polygon()]),), is_box=True)
    points = [float(value) for value in getattr(annotation, "points", None) or ()]
    if kind == "bbox":
        return Region(**known, shapes=(rectangle(*points),), is_box=True)
    if kind == "ellipse":
        return Region(**known, shapes=(polygon(pairs([float(value) for value in annotation.as_polygon()])),))
    kinds = {"polygon": "polygon", "polyline": "linestrip", "points": "points"}
    if kind not in kinds:
        return Region(**known, problem=f"annotations of the type {kind} are not supported. Redraw it as a polygon, or delete it.")
    return Region(**known, shapes=({"shape_type": kinds[kind], "points": pairs(points)},))
