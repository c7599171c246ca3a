"""Images with LabelMe annotations: JSON files of named polygons, rectangles and circles, drawn when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from segzoo.data.dataset_info import MEAN, STD, Color, class_id, dataset_info_errors, make_dataset_info, unknown_class_error
from segzoo.data.file_index import FileIndex, file_index_errors
from segzoo.data.image_io import printable, read_bytes
from segzoo.data.masks import check_size, label_dtype
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.splits import SPLITS, Split
from segzoo.registry import DATA, ConfigError, Range
from segzoo.types import DataError

POINTS = {"polygon": (3, None), "rectangle": (2, 2), "circle": (2, 2)}  # fewest and most points of each shape


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
    palette: tuple[Color, ...] | None = None,
    mean: Annotated[tuple[float, float, float], Range(0, 255)] = MEAN,
    std: Annotated[tuple[float, float, float], Range(0, 255, above=True)] = STD,
) -> PairedDataset:
    """Images with a LabelMe JSON each; what no shape covers is the first class.

    The image is read from its own file; one embedded in the JSON (``imageData``) and the name in ``imagePath`` are not used.

    Args:
        split: train or val.
        root: folder of the data set.
        classes: class names, the background first; position is the train id.
        title: the data set's name, kept in checkpoints and results.
        images, labels, lists, splits, val_ratio: where images, JSON files and lists of stems lie; as for the data set ``folder``.
        names: label in the JSON -> class name, where they differ; the class ``ignore`` means pixels that count nowhere.
        unlabeled: what an image without a JSON file is: an error, or all background.
        clip_px: how far a point may lie outside the image, in pixels; it is moved to the border.
        palette: one RGB triple a class; None gives each class a color of its own.
        mean, std: RGB statistics on the 0..255 scale.

    Raises:
        ConfigError: settings that cannot work; all of them at once.
        DataError: at first use, files that are missing or wrong.
    """
    faults = dataset_info_errors(classes, palette) + file_index_errors(split, images, labels, lists, splits, val_ratio)
    for label, name in (names or {}).items():
        if class_id(name, classes) is None:
            faults.append(f"data.names.{label}: the class {unknown_class_error(name, (*classes, 'ignore'))}")
    if faults:
        raise ConfigError(faults)
    share = None if val_ratio is None else (split, val_ratio)
    hint = "An image embedded in a JSON file (imageData) is not read: write it out as a file beside the others."
    tree = FileIndex(root, splits[split], images, labels, lists, share, unlabeled == "error", hint)
    return PairedDataset(make_dataset_info(title, classes, palette, mean, std), tree, LabelMeShapes(classes, names or {}, clip_px))


class LabelMeShapes:
    """Draws one LabelMe file: ``shapes(path, (H, W)) -> (H, W)`` train ids; later shapes lie on top of earlier ones.

    LabelMe counts from the image's outer corner, so point (x, y) lies in the pixel of column floor(x) and row floor(y). The pixels
    that hold a shape's points and its outline belong to it, as in LabelMe's own export: a shape grows by about half a pixel.
    """

    def __init__(self, classes: tuple[str, ...], names: dict[str, str], clip_px: float):
        self.classes, self.clip_px = classes, clip_px
        own = {name: index for index, name in enumerate(classes)}
        self.ids = own | {label: train for label, name in names.items() if (train := class_id(name, classes)) is not None}

    def __call__(self, path: Path, size: tuple[int, int]) -> np.ndarray:
        record = _record(path)
        stated = record.get("imageHeight"), record.get("imageWidth")
        if all(isinstance(side, int) for side in stated):
            check_size(path, stated, size)  # type: ignore[arg-type]
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
                f"{where}: the label {unknown} Correct the file, or give the label a class with data.names={{{label}: <class>}}."
            )
        return self.ids[label]

    def _outline(self, shape: Any, size: tuple[int, int], where: str) -> tuple[str, np.ndarray]:
        """The kind of a shape and its points (n, 2) as x, y in pixels, all of them inside the image or within reach of it."""
        if not isinstance(shape, dict):
            raise DataError(
                f"{where}: is {type(shape).__name__}, wanted a table with label, points and shape_type. Save it with LabelMe again."
            )
        kind = shape.get("shape_type") or "polygon"  # files before LabelMe 3 have no type
        if not isinstance(kind, str) or kind not in POINTS:
            legal = ", ".join(POINTS)
            raise DataError(
                f"{where} (label {shape.get('label')!r}): the type {kind!r} covers no area here; valid: {legal}. Draw it again as one."
            )
        points = _points(shape.get("points"))
        fewest, most = POINTS[kind]
        if points is None or len(points) < fewest or len(points) > (most or len(points)):
            wanted = f"{fewest}" if most else f"at least {fewest}"
            came = "no list of [x, y] numbers" if points is None else f"{len(points)} points"
            raise DataError(f"{where} (label {shape.get('label')!r}): a {kind} of {came}, wanted {wanted} points. Draw it again.")
        height, width = size
        beyond = np.maximum(-points, points - (width, height)).max(axis=1)
        if beyond.max() > self.clip_px:
            x, y = points[beyond.argmax()]
            raise DataError(
                f"{where} (label {shape.get('label')!r}): point ({x:g}, {y:g}) lies {beyond.max():.1f} pixels outside the image of "
                f"{width}x{height} (W x H), more than data.clip_px={self.clip_px:g}. Draw it again, or raise data.clip_px."
            )
        return kind, points


def _record(path: Path) -> dict[str, Any]:
    """The content of a LabelMe file. Raises DataError if it is none."""
    data = read_bytes(path)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        came = "is empty (0 bytes)" if not data else f"is no JSON ({error})"
        raise DataError(f"{printable(path)}: {came}. Save it with LabelMe again, or restore it from its source.") from error
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise DataError(
            f"{printable(path)}: is JSON, but no LabelMe file: it holds no list 'shapes'. Export it in LabelMe's format."
        )
    return record


def _points(given: Any) -> np.ndarray | None:
    """(n, 2) finite numbers, or None if ``given`` is something else."""
    if not isinstance(given, list) or not all(isinstance(point, list) and len(point) == 2 for point in given):
        return None
    if not all(isinstance(number, int | float) for point in given for number in point):
        return None
    try:
        points = np.array(given, np.float64).reshape(-1, 2)
    except OverflowError:
        return None
    return points if np.isfinite(points).all() else None


def _draw(label: np.ndarray, kind: str, points: np.ndarray, train: int) -> None:
    """Paints one shape into the label map."""
    import cv2

    height, width = label.shape
    pixels = np.clip(np.floor(points), 0, (width - 1, height - 1)).astype(np.int32)
    (left, top), (right, bottom) = pixels.min(axis=0), pixels.max(axis=0)
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        cv2.circle(label, pixels[0].tolist(), round(radius), train, thickness=-1)
    elif kind == "rectangle":
        label[top : bottom + 1, left : right + 1] = train
    else:
        cv2.fillPoly(label, [pixels], train)
