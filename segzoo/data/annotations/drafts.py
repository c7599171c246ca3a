"""LabelMe and COCO files of predicted regions, as drafts of labels."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from segzoo.data.annotations.polygons import RegionPolygon
from segzoo.types import DatasetInfo, PlainDict

LABELME_VERSION = "5.5.0"  # from 4 on, files refer to the upright image


class DraftImage(NamedTuple):
    """An image and its regions.

    Attributes:
        name: the image as the file names it, relative to the file.
        size: (H, W) of the upright image.
        polygons: its regions.
    """

    name: str
    size: tuple[int, int]
    polygons: Sequence[RegionPolygon]


def relative_name(image: Path, file: Path) -> str:
    """Name an image relative to the folder of an annotation file."""
    return Path(os.path.relpath(image.absolute(), file.absolute().parent)).as_posix()


def labelme_record(image: DraftImage, embedded: bytes | None = None) -> PlainDict:
    """Describe the regions of an image as LabelMe stores them.

    Args:
        image: the image.
        embedded: its content, such as a PNG, for an image that has no file.

    Returns:
        JSON-able containers, which ``data=labelme`` and LabelMe read.
    """
    shapes = [
        {
            "label": polygon.class_name,
            "points": polygon.points.tolist(),
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for polygon in image.polygons
    ]
    return {
        "version": LABELME_VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image.name,
        "imageData": None if embedded is None else base64.b64encode(embedded).decode(),
        "imageHeight": image.size[0],
        "imageWidth": image.size[1],
    }


def coco_record(images: Sequence[DraftImage], info: DatasetInfo) -> PlainDict:
    """Describe the regions of images as COCO stores them.

    Ids count from 1; that of a category is its train id plus 1. The background is not a category.

    Returns:
        JSON-able containers with ``images``, ``annotations`` and ``categories``.
    """
    annotations = [
        {
            "image_id": image_id,
            "category_id": polygon.class_id + 1,
            "segmentation": [polygon.points.ravel().tolist()],
            "bbox": list(polygon.box),
            "area": polygon.area,
            "iscrowd": 0,
        }
        for image_id, image in enumerate(images, 1)
        for polygon in image.polygons
    ]
    return {
        "images": [
            {"id": image_id, "file_name": image.name, "height": image.size[0], "width": image.size[1]}
            for image_id, image in enumerate(images, 1)
        ],
        "annotations": [{"id": number} | annotation for number, annotation in enumerate(annotations, 1)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(info.classes) if k != info.background],
    }
