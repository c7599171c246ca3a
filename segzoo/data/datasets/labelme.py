"""Images with LabelMe annotations.

LabelMe and X-AnyLabeling store named shapes in JSON files, which are rasterized when they are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from segzoo.class_names import background_id, background_order_errors, first_class_note
from segzoo.data.annotations.drawing import draw_objects
from segzoo.data.annotations.shapes import POINT_COUNTS, Shape, ShapeError, ShapeRules, find_label
from segzoo.data.checks.label_survey import LabelReader, LabelSurvey, count_labels
from segzoo.data.dataset_info import (
    Bits,
    Channels,
    ClassNames,
    Mean,
    Palette,
    ShownChannels,
    Std,
    class_id,
    dataset_info_errors,
    make_dataset_info,
    unknown_class_error,
)
from segzoo.data.datasets._splits import Patterns, file_index_errors, index_split
from segzoo.data.image_io import read_bytes
from segzoo.data.masks import LabelOrientation, label_dtype, labels_are_upright
from segzoo.data.paired_dataset import CacheMode, PairedDataset
from segzoo.data.splits import SPLITS, Split, SplitOrAll
from segzoo.image_decoder import turn_upright
from segzoo.messages import Example, did_you_mean, printable
from segzoo.pixel_format import PixelFormat, pixel_errors
from segzoo.registry import DATA, ConfigError, Range
from segzoo.types import IGNORE, DataError, PlainDict

LABELME_IDS = {"__ignore__": IGNORE, "ignore": IGNORE, "_background_": 0}  # those of labelme2voc, and the class ``ignore``
MAX_LISTED = 5  # invalid shapes of one file in its error
UNLABELED = "With data.unlabeled=background, images without a JSON file are all background."
EMBEDDED = (
    "An image embedded in a JSON file (imageData) is not read: `python tools/dataset.py action=convert action.format=labelme "
    "action.source=FOLDER` writes it to a file."
)


@DATA.register
def labelme(
    split: SplitOrAll,
    *,
    root: str,
    classes: ClassNames,
    title: str = "labelme",
    images: str | Patterns = "{split}/{stem}.*",
    labels: str = "{split}/{stem}.json",
    lists: str | None = None,
    splits: dict[Split, str] = SPLITS,
    val_ratio: Annotated[float | None, Range(0, 1, above=True)] = None,
    group_by: str | None = None,
    names: Annotated[dict[str | int, str], Example({"scratches": "scratch", "unclear": "ignore"})] | None = None,
    unlabeled: Literal["error", "background"] = "error",
    clip_px: Annotated[float, Range(0, 1e5)] = 2.0,
    line_px: Annotated[int | None, Range(1, 255)] = None,
    skip_shapes: tuple[str, ...] = (),
    label_orientation: LabelOrientation | None = None,
    palette: Palette | None = None,
    cache: CacheMode = "none",
    channels: Channels = 3,
    bits: Bits = 8,
    show_channels: ShownChannels | None = None,
    mean: Mean | None = None,
    std: Std | None = None,
) -> PairedDataset:
    """Images with one LabelMe JSON file each.

    Pixels outside all shapes belong to the first class. ``imageData`` and ``imagePath`` in the JSON are not used.

    Args:
        classes: class names, background first; position is the train id.
        split, root, title, images, labels, lists, splits, val_ratio, group_by: as for the data set ``folder``.
        names: label in the JSON -> class name, where they differ. The class ``ignore``, and the labels ``ignore`` and LabelMe's ``__ignore__``, are ignored pixels.
        unlabeled: what an image without a JSON file is: an error, or all background.
        clip_px: how far a point may lie outside the image, in pixels. Such points are moved to the border.
        line_px: width in pixels with which lines and points are drawn. None rejects them, because they cover no area.
        skip_shapes: types of shapes to leave out, such as ``point``.
        label_orientation: as for the data set ``folder``, for files below version 4. Later ones refer to the upright image.
        palette, cache, channels, bits, show_channels, mean, std: as for the data set ``folder``.

    Raises:
        ConfigError: the settings are invalid; lists all errors at once.
        DataError: at first use: files are missing or invalid.
    """
    errors = dataset_info_errors(classes, palette) + background_order_errors(classes, "data.classes")
    errors += pixel_errors(pixels := PixelFormat(channels, bits), mean, std, show_channels)
    errors += file_index_errors(split, images, labels, lists, splits, val_ratio, group_by)
    for label, name in (names or {}).items():
        if class_id(name, classes) is None:
            errors.append(f"data.names.{label}: the class {unknown_class_error(name, (*classes, 'ignore'))}")
    for kind in skip_shapes:
        if kind not in POINT_COUNTS and (hint := did_you_mean(kind, POINT_COUNTS)):
            errors.append(f"data.skip_shapes: the type {kind!r} is not known.{hint} Valid: {', '.join(POINT_COUNTS)}.")
    if errors:
        raise ConfigError(errors)
    index = index_split(split, root, images, labels, lists, splits, val_ratio, group_by, unlabeled == "error", EMBEDDED, UNLABELED)
    label_names = {str(label).strip(): name for label, name in (names or {}).items()}
    reader = LabelMeShapes(classes, label_names, clip_px, label_orientation, line_px, skip_shapes)
    return PairedDataset(make_dataset_info(title, classes, palette, mean, std, None, pixels, show_channels), index, reader, cache)


class LabelMeShapes(LabelReader):
    """Rasterizer of LabelMe files.

    ``shapes(path, (H, W), orientation)`` returns (H, W) train ids. Later shapes cover earlier ones; of shapes with the same label and
    ``group_id``, one inside of another is a hole in it. LabelMe measures from the outer
    corner of the image, so point (x, y) lies in the pixel of column floor(x) and row floor(y). The pixels under a shape's points and
    outline belong to it, as in LabelMe's own export, so a shape extends about half a pixel beyond its outline.

    Args:
        classes, names, clip_px, label_orientation, line_px, skip_shapes: as for the data set ``labelme``.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        names: dict[str, str],
        clip_px: float,
        label_orientation: LabelOrientation | None = None,
        line_px: int | None = None,
        skip_shapes: tuple[str, ...] = (),
    ):
        self.classes = classes
        self.label_orientation: LabelOrientation | None = label_orientation
        ids = {name: index for index, name in enumerate(classes)}
        ids |= {label: i for label, name in names.items() if (i := class_id(name, classes)) is not None}
        ids |= {label: i for label, i in LABELME_IDS.items() if label not in ids}
        self.rules = ShapeRules(ids, names, clip_px, line_px, skip_shapes)
        self.survey_key = f"labelme 2 {self.rules} {len(classes)} {label_orientation}"

    def __call__(self, path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
        return self._rasterize(read_record(path), path, size, orientation)

    def survey(self, path: Path, size: tuple[int, int], orientation: int = 1) -> LabelSurvey:
        """Count train ids.

        Labels that differ from their class in case or blanks are noted, and shapes of a first class that is no background.
        """
        record = read_record(path)
        counts = count_labels(self._rasterize(record, path, size, orientation))
        labels = {shape["label"] for shape in record["shapes"] if isinstance(shape.get("label"), str)}
        alike = {label: name for label in sorted(labels) if (name := find_label(label, self.rules.ids)) not in (None, label)}
        notes = [f"the label {label!r} is read as {name!r}." for label, name in alike.items()]
        first = self.classes[0]
        if background_id(self.classes) is None and any(find_label(label, self.rules.ids) == first for label in labels):
            notes.append(first_class_note("shapes are", self.classes, "data.classes"))
        return LabelSurvey(counts, notes=tuple(notes))

    def _rasterize(self, record: PlainDict, path: Path, size: tuple[int, int], orientation: int) -> np.ndarray:
        drawn_size = stored_size(record)
        label_orientation = "upright" if is_labelme_4(record) else self.label_orientation
        is_upright = labels_are_upright(path, drawn_size, size, orientation, label_orientation)
        label = np.zeros(size if is_upright or orientation < 5 else size[::-1], label_dtype(len(self.classes)))
        draw_objects(label, self._shapes(record, path, label.shape), self.rules.line_px)
        return label if is_upright else turn_upright(label, orientation)

    def _shapes(self, record: PlainDict, path: Path, size: tuple[int, ...]) -> list[Shape]:
        """Validate all shapes of a file.

        Raises:
            DataError: with one line per invalid shape.
        """
        shapes, errors = [], []
        for number, plain in enumerate(record["shapes"], 1):
            try:
                shapes.append(self.rules.parse(plain, (size[0], size[1])))
            except ShapeError as error:
                label = f" (label {plain.get('label')!r})" if isinstance(plain, dict) else ""
                errors.append(f"{printable(path)}, shape {number}{label}: {error}")
        if len(errors) > MAX_LISTED:
            errors[MAX_LISTED:] = [
                f"{printable(path)}: {len(errors) - MAX_LISTED} more of its {len(record['shapes'])} shapes are invalid."
            ]
        if errors:
            raise DataError("\n".join(errors))
        return [shape for shape in shapes if shape is not None]


def read_record(path: Path) -> PlainDict:
    """Read a LabelMe file.

    Raises:
        DataError: it is not a LabelMe file.
    """
    data = read_bytes(path)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        problem = f"is not valid JSON ({error}). Save it with LabelMe again, or restore it from its source."
        if isinstance(error, UnicodeDecodeError):
            problem = "is not UTF-8 text (is it GBK or Latin-1?). Convert it: `iconv -f GBK -t UTF-8 OLD.json > NEW.json`."
        if not data:
            problem = "is empty (0 bytes). Save it with LabelMe again, or restore it from its source."
        raise DataError(f"{printable(path)}: {problem}") from error
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise DataError(
            f"{printable(path)}: is JSON, but not a LabelMe file: it has no list 'shapes'. Export it in LabelMe's format."
        )
    return record


def stored_size(record: PlainDict) -> tuple[int, int] | None:
    """Height and width of the labeled image, None if unknown."""
    height, width = (record.get(f"image{side}") for side in ("Height", "Width"))
    if not all(isinstance(side, int | float) and side % 1 == 0 for side in (height, width)):
        return None
    return int(height), int(width)  # type: ignore[arg-type]


def is_labelme_4(record: PlainDict) -> bool:
    """Recognize files of LabelMe 4 or later.

    They refer to the upright image. Versions below 4 may be LabelMe's or X-AnyLabeling's, and differ in this.
    """
    major = str(record.get("version")).partition(".")[0]
    return major.isascii() and major.isdigit() and len(major) < 10 and int(major) >= 4
