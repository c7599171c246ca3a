"""Rasterization of shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segzoo.data.annotations.shapes import AREAS, LINES, Shape


def draw_objects(label: np.ndarray, shapes: Sequence[Shape], line_px: int | None) -> None:
    """Draw shapes into a label map (H, W) in place.

    Later ones cover earlier ones. Shapes of one class and group are one object, drawn in place of its first shape.
    """
    objects: dict[object, list[Shape]] = {}
    for number, shape in enumerate(shapes):
        key = ("alone", number) if shape.group is None else (shape.train_id, shape.group)
        objects.setdefault(key, []).append(shape)
    for parts in objects.values():
        if len(parts) == 1:
            draw(label, parts[0], line_px)
        else:
            label[object_mask(parts, label.shape, line_px)] = parts[0].train_id


def object_mask(parts: Sequence[Shape], size: tuple[int, ...], line_px: int | None) -> np.ndarray:
    """Pixels (H, W) of an object.

    A part that lies inside of the others is a hole, and one in the hole belongs to the object again. Holes may touch each other.
    """
    areas = []
    for part in parts:
        area = np.zeros(size, np.uint8)
        draw(area, part._replace(train_id=1), line_px)
        areas.append((int(np.count_nonzero(area)), part.kind in AREAS, area > 0))
    mask = np.zeros(size, bool)
    layers: list[tuple[np.ndarray, set[bytes]]] = []  # union and parts of outlines, of their holes, of the parts in those, ...
    for pixels, can_be_hole, area in sorted(areas, key=lambda entry: -entry[0]):
        content, depth = np.packbits(area).tobytes(), 0
        while can_be_hole and pixels and depth < len(layers) and _lies_inside(area, content, *layers[depth]):
            depth += 1
        if depth == len(layers):
            layers.append((np.zeros(size, bool), set()))
        layers[depth][0][area] = True
        layers[depth][1].add(content)
        mask[area] = depth % 2 == 0
    return mask


def _lies_inside(area: np.ndarray, content: bytes, union: np.ndarray, parts: set[bytes]) -> bool:
    return content not in parts and bool(union[area].all())


def draw(label: np.ndarray, shape: Shape, line_px: int | None) -> None:
    """Draw a shape into a label map (H, W) in place."""
    import cv2

    height, width = label.shape
    pixels = np.clip(np.floor(shape.points), 0, (width - 1, height - 1)).astype(np.int32)
    if shape.bitmap is not None:
        _draw_bitmap(label, shape)
    elif shape.kind == "circle":
        radius = float(np.hypot(*(shape.points[1] - shape.points[0])))
        cv2.circle(label, pixels[0].tolist(), round(radius), shape.train_id, thickness=-1)
    elif shape.kind == "rectangle" and len(pixels) == 2:
        (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
        label[top : bottom + 1, left : right + 1] = shape.train_id
    elif shape.kind in LINES:
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (line_px or 1,) * 2)
        thin = np.zeros(label.shape, np.uint8)
        thin[pixels[:, 1], pixels[:, 0]] = 1
        if shape.kind in ("line", "linestrip"):
            cv2.polylines(thin, [pixels], False, 1)
        label[cv2.dilate(thin, pen) > 0] = shape.train_id  # OpenCV draws a line of thickness 3 five pixels wide
    else:
        cv2.fillPoly(label, [pixels], shape.train_id)


def _draw_bitmap(label: np.ndarray, shape: Shape) -> None:
    assert shape.bitmap is not None
    left, top = np.floor(shape.points[0]).astype(int)
    rows, columns = np.nonzero(shape.bitmap)
    rows, columns = rows + top, columns + left
    inside = (rows >= 0) & (rows < label.shape[0]) & (columns >= 0) & (columns < label.shape[1])
    label[rows[inside], columns[inside]] = shape.train_id
