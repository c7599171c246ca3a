"""Images with LabelMe annotations.

LabelMe stores named polygons, rectangles and circles in JSON files, which are rasterized when they are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from segzoo.data.dataset_info import MEAN, STD, Color, class_id, dataset_info_errors, make_dataset_info, unknown_class_error
from segzoo.data.file_index import FileIndex, file_index_errors
from segzoo.data.image_decoder import turn_upright
from segzoo.data.image_io import printable, read_bytes
from segzoo.data.masks import LabelOrientation, label_dtype, labels_are_upright
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.splits import SPLITS, Split
from segzoo.registry import DATA, ConfigError, Range
from segzoo.types import DataError, PlainDict

POINT_COUNTS = {"polygon": (3, None), "rectangle": (2, 2), "circle": (2, 2)}  # minimum and maximum


@DATA.register
def labelme(
    split: Split,
    *,
    root: str,
    classes: tuple[str, ...],
    title: str = "labelme",
    images: str = "{split}/{stem}.*",
    labels: str = "{split}/{stem}.json",
    lists: str | None = None,
    splits: dict[Split, str] = SPLITS,
    val_ratio: Annotated[float | None, Range(0, 1, above=True)] = None,
    names: dict[str, str] | None = None,
    unlabeled: Literal["error", "background"] = "error",
    clip_px: Annotated[float, Range(0, None)] = 2.0,
    label_orientation: LabelOrientation | None = None,
    palette: tuple[Color, ...] | None = None,
    mean: Annotated[tuple[float, float, float], Range(0, 255)] = MEAN,
    std: Annotated[tuple[float, float, float], Range(0, 255, above=True)] = STD,
) -> PairedDataset:
    """Images with one LabelMe JSON file each.

    Pixels outside all shapes belong to the first class. The image is read from its own file: an image embedded in the JSON
    (``imageData``) and the name in ``imagePath`` are not used.

    Args:
        split: train or val.
        root: folder of the data set.
        classes: class names, background first; position is the train id.
        title: name of the data set in checkpoints and results.
        images, labels, lists, splits, val_ratio: location of images, JSON files and lists of stems, as for the data set ``folder``.
        names: label in the JSON -> class name, where they differ. The class ``ignore`` means ignored pixels.
        unlabeled: how to treat an image without a JSON file: as an error, or as all background.
        clip_px: how far a point may lie outside the image, in pixels. Such points are moved to the border.
        label_orientation: what the points refer to if an image carries an EXIF orientation that keeps its size, as for the data set
            ``folder``. Since version 4, LabelMe draws on the upright image, so its files need no setting.
        palette: one RGB triple per class. None assigns distinct colors.
        mean, std: RGB statistics on the 0..255 scale.

    Raises:
        ConfigError: the settings are invalid; lists all errors at once.
        DataError: at first use: files are missing or invalid.
    """
    errors = dataset_info_errors(classes, palette) + file_index_errors(split, images, labels, lists, splits, val_ratio)
    for label, name in (names or {}).items():
        if class_id(name, classes) is None:
            errors.append(f"data.names.{label}: the class {unknown_class_error(name, (*classes, 'ignore'))}")
    if errors:
        raise ConfigError(errors)
    hash_split = None if val_ratio is None else (split, val_ratio)
    hint = "An image embedded in a JSON file (imageData) is not read: save it as a separate image file."
    index = FileIndex(root, splits[split], images, labels, lists, hash_split, unlabeled == "error", hint)
    return PairedDataset(
        make_dataset_info(title, classes, palette, mean, std),
        index,
        LabelMeShapes(classes, names or {}, clip_px, label_orientation),
    )


class LabelMeShapes:
    """Rasterizer of LabelMe files.

    ``shapes(path, (H, W), orientation)`` returns (H, W) train ids. Later shapes cover earlier ones. LabelMe measures from the outer corner of the
    image, so point (x, y) lies in the pixel of column floor(x) and row floor(y). The pixels under a shape's points and outline belong
    to it, as in LabelMe's own export, so a shape extends about half a pixel beyond its outline.
    """

    def __init__(
        self, classes: tuple[str, ...], names: dict[str, str], clip_px: float, label_orientation: LabelOrientation | None = None
    ):
        self.classes, self.clip_px, self.label_orientation = classes, clip_px, label_orientation
        class_ids = {name: index for index, name in enumerate(classes)}
        self.ids = class_ids | {label: i for label, name in names.items() if (i := class_id(name, classes)) is not None}

    def __call__(self, path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
        record = _read_record(path)
        height, width = record.get("imageHeight"), record.get("imageWidth")
        drawn_size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        label_orientation = self.label_orientation or ("upright" if _is_labelme_4(record) else None)
        if labels_are_upright(path, drawn_size, size, orientation, label_orientation):
            return self._rasterize(record, path, size)
        stored_size = size if orientation < 5 else size[::-1]
        return turn_upright(self._rasterize(record, path, stored_size), orientation)

    def _rasterize(self, record: PlainDict, path: Path, size: tuple[int, int]) -> np.ndarray:
        label = np.zeros(size, label_dtype(len(self.classes)))
        for number, shape in enumerate(record["shapes"], 1):
            where = f"{printable(path)}, shape {number}"
            kind, points = self._outline(shape, size, where)
            _draw(label, kind, points, self._train_id(shape, where))
        return label

    def _train_id(self, shape: dict, where: str) -> int:
        label = shape.get("label")
        if not isinstance(label, str) or label not in self.ids:
            unknown = unknown_class_error(str(label), tuple(self.ids))
            raise DataError(
                f"{where}: the label {unknown} Correct the file, or map the label to a class with data.names={{{label}: <class>}}."
            )
        return self.ids[label]

    def _outline(self, shape: Any, size: tuple[int, int], where: str) -> tuple[str, np.ndarray]:
        """Validate a shape and return its type and points.

        Returns:
            The type, and (n, 2) x, y in pixels, at most ``clip_px`` outside the image.
        """
        if not isinstance(shape, dict):
            raise DataError(
                f"{where}: is of type {type(shape).__name__}, expected an object with label, points and shape_type. Save it with LabelMe again."
            )
        kind = shape.get("shape_type") or "polygon"  # files before LabelMe 3 have no type
        if not isinstance(kind, str) or kind not in POINT_COUNTS:
            raise DataError(
                f"{where} (label {shape.get('label')!r}): shape type {kind!r} is not supported. Valid: {', '.join(POINT_COUNTS)}. Redraw "
                "it as one of these."
            )
        points = _points(shape.get("points"))
        minimum, maximum = POINT_COUNTS[kind]
        if points is None or len(points) < minimum or len(points) > (maximum or len(points)):
            expected = f"{minimum}" if maximum else f"at least {minimum}"
            actual = "something other than a list of [x, y] numbers" if points is None else f"{len(points)} points"
            raise DataError(f"{where} (label {shape.get('label')!r}): {kind} with {actual}, expected {expected} points. Redraw it.")
        height, width = size
        outside = np.maximum(-points, points - (width, height)).max(axis=1)
        if outside.max() > self.clip_px:
            x, y = points[outside.argmax()]
            raise DataError(
                f"{where} (label {shape.get('label')!r}): point ({x:g}, {y:g}) lies {outside.max():.1f} pixels outside the image of "
                f"{width}x{height} (W x H), more than data.clip_px={self.clip_px:g}. Redraw it, or increase data.clip_px."
            )
        return kind, points


def _read_record(path: Path) -> PlainDict:
    """Read a LabelMe file.

    Raises:
        DataError: it is not a LabelMe file.
    """
    data = read_bytes(path)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        problem = "is empty (0 bytes)" if not data else f"is not valid JSON ({error})"
        raise DataError(f"{printable(path)}: {problem}. Save it with LabelMe again, or restore it from its source.") from error
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise DataError(
            f"{printable(path)}: is JSON, but not a LabelMe file: it has no list 'shapes'. Export it in LabelMe's format."
        )
    return record


def _is_labelme_4(record: PlainDict) -> bool:
    """Recognize files of LabelMe 4 or later.

    They refer to the upright image. Versions below 4 may be LabelMe's or X-AnyLabeling's, and differ in this.
    """
    major = str(record.get("version")).partition(".")[0]
    return major.isascii() and major.isdigit() and len(major) < 10 and int(major) >= 4


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


def _draw(label: np.ndarray, kind: str, points: np.ndarray, train_id: int) -> None:
    """Draw one shape into the label map in place."""
    import cv2

    height, width = label.shape
    pixels = np.clip(np.floor(points), 0, (width - 1, height - 1)).astype(np.int32)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        cv2.circle(label, pixels[0].tolist(), round(radius), train_id, thickness=-1)
    elif kind == "rectangle":
        label[top : bottom + 1, left : right + 1] = train_id
    else:
        cv2.fillPoly(label, [pixels], train_id)
