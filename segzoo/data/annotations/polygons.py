"""Polygons around the regions of a label map.

Annotation tools can edit them. A region with holes is one polygon: it reaches each hole over a bridge of no width. Rasterized as LabelMe and this package do, with the
pixels of its outline, a polygon that is not simplified covers exactly its region.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from segzoo.data.inspection.blobs import class_blobs
from segzoo.types import DatasetInfo

PIXEL_CENTER = 0.5  # coordinates count from the outer corner of the image


class RegionPolygon(NamedTuple):
    """Polygon of connected pixels of one class.

    Attributes:
        class_name: name of the class.
        class_id: its train id.
        box: left, top, width and height of the region in pixels.
        area: number of its pixels.
        points: (n, 2) x, y in pixels, counted from the outer corner of the image; n is at least 3.
    """

    class_name: str
    class_id: int
    box: tuple[int, int, int, int]
    area: int
    points: np.ndarray


def region_polygons(label: np.ndarray, info: DatasetInfo, tolerance: float = 1.0, min_area: int = 1) -> list[RegionPolygon]:
    """Outline the 8-connected regions of a label map, the largest first.

    The background and ignored pixels have none.

    Args:
        label: (H, W) train ids.
        info: the classes.
        tolerance: how far a polygon may lie from the outline of its region, in pixels. 0 keeps every corner.
        min_area: smaller regions are left out, in pixels.
    """
    found = []
    for class_id, blobs in class_blobs(label, info):
        if class_id == info.background:
            continue
        for number, (box, area) in enumerate(zip(blobs.boxes.tolist(), blobs.areas.tolist(), strict=True), 1):
            if area >= min_area:
                left, top, width, height = box
                mask = (blobs.numbers[top : top + height, left : left + width] == number).astype(np.uint8)
                points = _with_area(_outline(mask, tolerance) + (left, top))
                found.append(RegionPolygon(info.classes[class_id], class_id, (left, top, width, height), area, points))
    return sorted(found, key=lambda polygon: -polygon.area)


def _outline(mask: np.ndarray, tolerance: float) -> np.ndarray:
    """Outline connected pixels by one closed polygon.

    Args:
        mask: (h, w) uint8 of 0 and 1, one component.
        tolerance: as in ``region_polygons``.

    Returns:
        (n, 2) int x, y of pixels.
    """
    import cv2

    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    is_hole = hierarchy[0, :, 3] >= 0
    (ring,) = (contour[:, 0] for contour, inside in zip(contours, is_hole, strict=True) if not inside)
    holes = [contour[:, 0] for contour, inside in zip(contours, is_hole, strict=True) if inside]
    if not holes:
        return cv2.approxPolyDP(ring, tolerance, closed=True)[:, 0]
    ring, is_fixed = _join_holes(mask, ring, holes)
    first = is_fixed.argmax()
    ring, is_fixed = np.roll(ring, -first, axis=0), np.roll(is_fixed, -first)
    closed, bounds = np.concatenate([ring, ring[:1]]), [*np.flatnonzero(is_fixed).tolist(), len(ring)]
    return np.concatenate([_simplify(closed[a : b + 1], tolerance)[:-1] for a, b in zip(bounds, bounds[1:], strict=False)])


def _join_holes(mask: np.ndarray, ring: np.ndarray, holes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Extend the outer ring by a detour around each hole.

    From the leftmost pixel next to a hole, all pixels to the left belong to the region up to one on the outer ring or on a hole further
    to the left. There the detour begins and ends.

    Returns:
        (n, 2) int x, y of the closed line, and (n,) whether simplifying keeps the point, as both ends of a bridge.
    """
    lines, places = [ring], {point: (0, place) for place, point in reversed(list(enumerate(map(tuple, ring.tolist()))))}
    fixed = [np.zeros(len(ring), bool)]
    detours: list[dict[int, list[int]]] = [{}]  # of each line: place -> lines that begin behind it
    for hole in sorted(holes, key=lambda hole: hole[:, 0].min()):
        hole = np.roll(hole, -hole[:, 0].argmin(), axis=0)
        x, y = hole[0].tolist()
        outside = np.flatnonzero(mask[y, :x] == 0)
        start = (int(outside[-1]) + 1 if len(outside) else 0, y)
        line, place = places[start]
        fixed[line][place] = True
        detours[line].setdefault(place, []).append(len(lines))
        detour = np.concatenate([hole, hole[:1], [start]])
        for number, point in enumerate(map(tuple, detour.tolist())):
            places.setdefault(point, (len(lines), number))
        lines.append(detour)
        fixed.append(np.isin(np.arange(len(detour)), (0, len(detour) - 2, len(detour) - 1)))
        detours.append({})
    order, stack = [], [(0, _steps(lines[0], detours[0]))]
    while stack:
        line, steps = stack[-1]
        step = next(steps, None)
        if step is None:
            stack.pop()
        elif isinstance(step, int):
            stack.append((step, _steps(lines[step], detours[step])))
        else:
            order.append((line, step))
    points = np.concatenate([lines[line][part] for line, part in order])
    return points, np.concatenate([fixed[line][part] for line, part in order])


def _steps(line: np.ndarray, detours: dict[int, list[int]]) -> Iterator[slice | int]:
    """Yield the parts of a line and the lines between them."""
    done = 0
    for place in sorted(detours):
        yield slice(done, place + 1)
        yield from reversed(detours[place])
        done = place + 1
    yield slice(done, len(line))


def _simplify(line: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify a polyline (n, 2) and keep its ends.

    OpenCV would reduce one that ends where it starts to a point.
    """
    import cv2

    if len(line) < 3:
        return line
    if (line[0] == line[-1]).all():
        far = max(1, np.square(line - line[0]).sum(1).argmax())
        return np.concatenate([_simplify(line[: far + 1], tolerance)[:-1], _simplify(line[far:], tolerance)])
    return cv2.approxPolyDP(line, tolerance, closed=False)[:, 0]


def _with_area(pixels: np.ndarray) -> np.ndarray:
    """Place points at the centers of pixels.

    A polygon of one or two pixels gets four corners in them, since annotation tools expect at least three.
    """
    if len(pixels) > 2:
        return pixels + PIXEL_CENTER
    first, last = pixels[0], pixels[-1]
    rises = (last - first).prod() > 0
    low, high = ((0.25, 0.75), (0.75, 0.25)) if rises else ((0.25, 0.25), (0.75, 0.75))
    if len(pixels) == 1:
        return first + [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]]
    return np.array([first + low, last + low, last + high, first + high])
