"""Labels corrected on the page, as LabelMe files to train from."""

from __future__ import annotations

import numpy as np
from fastapi import HTTPException, Request

from segzoo.data.annotations.drafts import DraftImage, labelme_record
from segzoo.data.annotations.polygons import region_polygons
from segzoo.types import DatasetInfo, PlainDict
from segzoo.workflows.serve.service import Limits
from segzoo.workflows.serve.uploads import base_name, read_uploads


async def read_correction(request: Request, size: tuple[int, int], info: DatasetInfo, limits: Limits) -> np.ndarray:
    """Read the class ids that a page sends.

    Args:
        request: its body holds (H, W) class ids in rows, one byte each up to 255 classes, else two, the lower first.
        size: (H, W).
        info: the classes.
        limits: pixels, bytes and seconds.

    Returns:
        (H, W) class ids.

    Raises:
        HTTPException: 400 for another length, 413 for too many pixels, 422 for an id that is not a class.
    """
    pixels, kind = size[0] * size[1], np.dtype("<u2" if info.num_classes > 255 else np.uint8)
    if pixels > limits.max_megapixels * 1e6:
        raise HTTPException(413, f"{size[1]}x{size[0]} pixels (W x H) exceed the limit of {limits.max_megapixels:g} megapixels.")
    [(_, body)] = await read_uploads(request, max_bytes=pixels * kind.itemsize, max_images=1, seconds=limits.timeout_s)
    if len(body) != pixels * kind.itemsize:
        raise HTTPException(
            400, f"The body has {len(body)} bytes, expected {pixels * kind.itemsize} for {size[1]}x{size[0]} pixels (W x H)."
        )
    labels = np.frombuffer(body, kind).reshape(size)
    if wrong := [int(value) for value in np.unique(labels) if value >= info.num_classes and value != info.ignore]:
        raise HTTPException(
            422, f"The class id {wrong[0]} does not exist: expected 0 to {info.num_classes - 1}, or {info.ignore} to ignore."
        )
    return labels


def correction_record(labels: np.ndarray, info: DatasetInfo, name: str, tolerance: float) -> PlainDict:
    """Describe corrected labels as LabelMe does.

    Args:
        labels: (H, W) class ids.
        info: the classes.
        name: file name of the image.
        tolerance: how far a polygon may lie from the outline of its region, in pixels.
    """
    height, width = labels.shape
    return labelme_record(DraftImage(base_name(name), (height, width), region_polygons(labels, info, tolerance)))
