"""Shapes of LabelMe files and their validation.

Besides LabelMe's own types, those of X-AnyLabeling are known: rectangles of four points, rotated rectangles and quadrilaterals.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from segzoo.data.dataset_info import unknown_class_error
from segzoo.image_decoder import ImageError, decode, open_image
from segzoo.messages import did_you_mean, format_override

AREAS = {"polygon": (3, None), "rectangle": (2, 4), "circle": (2,), "mask": (2,)}  # point counts; None: or more
AREAS |= dict.fromkeys(("rotation", "oriented_rectangle", "quadrilateral"), (4,))
LINES = {"line": (2,), "linestrip": (2, None), "point": (1,), "points": (1, None)}
POINT_COUNTS: dict[str, tuple[int | None, ...]] = AREAS | LINES
MAX_CROSSINGS = 1000  # edges of a polygon on one row of pixels; OpenCV needs time quadratic in them
_HYDRA_KEY = re.compile(r"[\w /\\+.$%*@?|()\[\]{}:=,-]+", re.ASCII)


class ShapeError(ValueError):
    """An invalid shape, and how to fix it."""


class Shape(NamedTuple):
    """A valid shape.

    Attributes:
        kind: its type, a key of ``POINT_COUNTS``.
        train_id: the class, or 255.
        points: (n, 2) x, y in pixels, which may lie slightly outside the image.
        bitmap: (h, w) boolean pixels of a ``mask``, whose upper left corner is ``points[0]``; None for other types.
        group: what shapes of one object share; None for an object of its own.
    """

    kind: str
    train_id: int
    points: np.ndarray
    bitmap: np.ndarray | None = None
    group: int | str | None = None


@dataclass(frozen=True)
class ShapeRules:
    """Rules of a data set for shapes.

    Attributes:
        ids: label -> train id.
        names: the setting ``names``, which the suggestion for an unknown label extends.
        clip_px: how far points may lie outside the image, in pixels.
        line_px: width of lines and points in pixels. None rejects them.
        skip: types to leave out.
        section: where the settings stand, for messages.
    """

    ids: dict[str, int]
    names: dict[str, str]
    clip_px: float
    line_px: int | None = None
    skip: tuple[str, ...] = ()
    section: str = "data"

    def parse(self, shape: Any, size: tuple[int, int]) -> Shape | None:
        """Validate a shape of an image of size (H, W).

        Returns:
            The shape, or None if its type is left out.

        Raises:
            ShapeError: it is invalid.
        """
        outline = self.parse_outline(shape, size)
        if outline is None:
            return None
        name = find_label(shape.get("label"), self.ids)
        if name is None:
            raise ShapeError(self.unknown_label(str(shape.get("label"))))
        return outline._replace(train_id=self.ids[name])

    def parse_outline(self, shape: object, size: tuple[int, int]) -> Shape | None:
        """Validate a shape as ``parse`` does, but leave its label aside.

        The train id of the result is 1.
        """
        if not isinstance(shape, dict):
            raise ShapeError(
                f"is of type {type(shape).__name__}, expected an object with label, points and shape_type. Save it with LabelMe again."
            )
        kind = shape.get("shape_type") or "polygon"  # files before LabelMe 3 have no type
        if kind in self.skip:
            return None
        self._check_kind(kind)
        points = _points(shape.get("points"))
        counts = POINT_COUNTS[kind]
        if points is None or not (len(points) in counts or (None in counts and len(points) > (counts[0] or 0))):
            expected = f"at least {counts[0]}" if None in counts else " or ".join(map(str, counts))
            actual = "something other than a list of [x, y] numbers" if points is None else f"{len(points)} points"
            raise ShapeError(f"{kind} with {actual}, expected {expected} points. Redraw or delete it.")
        self._check_inside(points, size)
        if kind in AREAS and kind != "mask":
            _check_crossings(points, size)
        group = shape.get("group_id")
        bitmap = _bitmap(shape.get("mask"), points) if kind == "mask" else None
        return Shape(kind, 1, points, bitmap, group if isinstance(group, int | str) else None)

    def _check_kind(self, kind: object) -> None:
        if isinstance(kind, str) and kind in AREAS:
            return
        leave_out = f"leave it out with {format_override(f'{self.section}.skip_shapes', [*self.skip, str(kind)])}"
        if not isinstance(kind, str) or kind not in LINES:
            raise ShapeError(f"shape type {kind!r} is not supported. Valid: {', '.join(POINT_COUNTS)}. Redraw it, or {leave_out}.")
        if self.line_px is None:
            raise ShapeError(
                f"a {kind} covers no area. Set {self.section}.line_px=3 to draw lines and points 3 pixels wide, or {leave_out}."
            )

    def _check_inside(self, points: np.ndarray, size: tuple[int, int]) -> None:
        height, width = size
        outside = np.maximum(-points, points - (width, height)).max(axis=1)
        if outside.max() > self.clip_px:
            x, y = points[outside.argmax()]
            raise ShapeError(
                f"point ({x:g}, {y:g}) lies {outside.max():.1f} pixels outside the image of {width}x{height} (W x H), more than "
                f"{self.section}.clip_px={self.clip_px:g}. Redraw it, or increase {self.section}.clip_px."
            )

    def unknown_label(self, label: str) -> str:
        """Error text for an unknown label, with a suggestion."""
        similar = did_you_mean(label, [name for name in self.ids if not name.startswith("_")])  # not those of LabelMe itself
        match = similar.split("'")[1] if similar else "ignore"
        target = self.names.get(match, match)
        if _HYDRA_KEY.fullmatch(label):
            entry = format_override(f"{self.section}.names", self.names | {label.strip(): target})
        else:
            entry = f"an entry {label.strip()!r}: {target} in 'names' in the data set's YAML"
        return f"the label {unknown_class_error(label, tuple(self.ids))} Correct the file, or map the label to a class, such as {entry}."


def find_label(label: object, ids: Mapping[str, int]) -> str | None:
    """Find the key of ``ids`` that a label means.

    Blanks around it are ignored, and so is its case if no other key differs only in case.
    """
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    if not isinstance(label, str):
        return None
    label = label.strip()
    if label in ids:
        return label
    alike = [name for name in ids if name.casefold() == label.casefold()]
    return alike[0] if len(alike) == 1 else None


def _bitmap(text: Any, points: np.ndarray) -> np.ndarray:
    """Decode the pixels of a mask between its first and last point."""
    width, height = (np.floor(points[1]) - np.floor(points[0]) + 1).astype(int)
    try:
        image = open_image(base64.b64decode(text, validate=True), ("PNG",), 1 << 30)
        if image.size == (width, height):  # also bounds what is decoded
            decode(image)
    except (TypeError, ValueError, binascii.Error) as error:
        problem = str(error) if isinstance(error, ImageError) else "is not base64 text."
        raise ShapeError(f"the pixels of the mask cannot be read: {problem} Save it with LabelMe again.") from error
    if image.size != (width, height):
        raise ShapeError(
            f"mask of {image.width}x{image.height} pixels (W x H), but its points span {width}x{height}. Save it with LabelMe again."
        )
    return np.array(image.convert("L")) > 0


def _check_crossings(points: np.ndarray, size: tuple[int, int]) -> None:
    """Reject a polygon whose outline crosses a row of pixels absurdly often."""
    if len(points) <= MAX_CROSSINGS:
        return
    y = np.clip(np.floor(points[:, 1]), 0, size[0] - 1).astype(np.int64)
    ends = np.stack([y, np.roll(y, -1)])
    changes = np.bincount(ends.min(axis=0), minlength=size[0] + 1) - np.bincount(ends.max(axis=0), minlength=size[0] + 1)
    most = int(np.cumsum(changes).max())
    if most > max(MAX_CROSSINGS, size[1]):
        raise ShapeError(
            f"the outline of {len(points)} points crosses one row of pixels {most} times: it encloses no area. Redraw it."
        )


def _points(value: object) -> np.ndarray | None:
    """Convert a list of [x, y] to an (n, 2) array.

    Returns None for anything else, and for numbers that are not finite.
    """
    if not isinstance(value, list) or not all(isinstance(point, list) and len(point) == 2 for point in value):
        return None
    if not all(isinstance(number, int | float) for point in value for number in point):
        return None
    try:
        points = np.array(value, np.float64).reshape(-1, 2)
    except OverflowError:
        return None
    return points if np.isfinite(points).all() else None
