"""Files of one predicted image: label map, overlay, confidence and polygons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from segzoo.data.dataset_info import hidden_ids
from segzoo.inference.outputs.confidence import Confidence, write_confidence
from segzoo.inference.outputs.image_report import ImageReport, report_areas, report_columns, report_image
from segzoo.inference.outputs.polygon_files import PolygonFormat, write_labelme
from segzoo.inference.outputs.rules import Rule, make_rules
from segzoo.inference.sources._base import Item
from segzoo.inference.submission import LabelFormat, Submission, make_submission
from segzoo.io import write_atomically
from segzoo.messages import printable
from segzoo.registry import Range
from segzoo.types import DataError, DatasetInfo
from segzoo.visualization.drawing import colorize, overlay, shown_rgb, with_legend
from segzoo.visualization.label_png import write_label_png
from segzoo.visualization.palette import Color

OverlayFormat = Literal["png", "jpg", "video", "none"]


@dataclass(frozen=True)
class ResultFiles:
    """Results of a prediction, image by image.

    Attributes:
        folder: the output directory.
        info: classes and colors.
        format: form of the label maps.
        submission: the same for a server, or None.
        overlays: file format of the overlays.
        alpha, hidden: opacity of the class colors, 0 to 1, and train ids that stay clear.
        confidence: kind of confidence map.
        polygons: form of the polygons.
        region_ids: classes whose regions are listed.
        rules: rules by which an image fails.
    """

    folder: Path
    info: DatasetInfo
    format: LabelFormat
    submission: Submission | None
    overlays: OverlayFormat
    alpha: float
    hidden: Sequence[int]
    confidence: Confidence
    polygons: PolygonFormat
    region_ids: Sequence[int]
    rules: Sequence[Rule]

    @property
    def columns(self) -> list[str]:
        """Columns of an image's report."""
        return report_columns(self.info, self.region_ids)

    def label_path(self, name: str) -> Path:
        """Path of an image's label map."""
        return self.folder / "labels" / f"{name}.png"

    def paths(self, name: str) -> list[Path]:
        """Paths of all files of an image, the label map first."""
        paths = [self.label_path(name)]
        if self.overlays in ("png", "jpg"):
            paths.append(self._overlay_path(name))
        if self.confidence != "none":
            paths.append(self._confidence_path(name))
        if self.polygons == "labelme":
            paths.append(self._labelme_path(name))
        return paths

    def is_complete(self, name: str) -> bool:
        """True if all files of an image exist and are not empty."""
        try:
            return all(path.stat().st_size for path in self.paths(name))
        except OSError:  # missing
            return False

    def write(self, item: Item, image: np.ndarray, label: np.ndarray, confidence: np.ndarray | None) -> np.ndarray | None:
        """Write the files of an image, the label map last.

        Args:
            item: the image.
            image, label, confidence: (H, W, C), (H, W) class ids, and (H, W) uint8 or None.

        Returns:
            The overlay if it is a frame of a video, whose legend lists all classes, since frames have one size.
        """
        drawn, name = None, item.name
        if self.overlays != "none":
            drawn = self._draw(image, label, np.arange(self.info.num_classes)[None] if self.overlays == "video" else label)
        if drawn is not None and self.overlays != "video":
            write_rgb(self._overlay_path(name), drawn)
        if confidence is not None:
            write_confidence(self._confidence_path(name), confidence)
        if self.polygons == "labelme":
            write_labelme(self._labelme_path(name), shown_rgb(image, self.info.show_channels), label, self.info, item.path)
        if self.submission is not None:
            self.submission.write_label(self.label_path(name), label)
        elif self.format == "color":
            write_rgb(self.label_path(name), colorize(label, self.info.palette))
        else:
            write_labels(self.label_path(name), label, self.info)
        return drawn if self.overlays == "video" else None

    def report(self, label: np.ndarray) -> ImageReport:
        """Measure a label map and apply the rules."""
        return report_image(label, self.info, self.region_ids, self.rules)

    @property
    def label_form(self) -> tuple[np.ndarray | None, Sequence[Color] | None]:
        """Values of the classes in label maps, and their colors.

        Values of None are class ids, and colors of None are grayscale.
        """
        return (None, self.info.palette) if self.submission is None else (self.submission.values, self.submission.palette)

    def overlay_writer(self, name: str) -> Callable[[np.ndarray, np.ndarray], None] | None:
        """Return a function that writes an overlay, if there are any.

        It takes an image (H, W, 3) and its labels (H, W).
        """
        return partial(self._write_overlay, self._overlay_path(name)) if self.overlays in ("png", "jpg") else None

    def report_areas(self, areas: np.ndarray, hw: tuple[int, int]) -> ImageReport:
        """Report an image of which only the areas (K,) are known."""
        return report_areas(areas, hw, self.info, self.region_ids, self.rules)

    def _write_overlay(self, path: Path, image: np.ndarray, label: np.ndarray) -> None:
        write_rgb(path, self._draw(image, label, label))

    def _draw(self, image: np.ndarray, label: np.ndarray, listed: np.ndarray) -> np.ndarray:
        """Draw an overlay, whose legend lists the classes of ``listed``."""
        tinted = overlay(shown_rgb(image, self.info.show_channels), label, self.info.palette, self.hidden, self.alpha)
        return with_legend(tinted, [listed], self.info.classes, self.info.palette, self.hidden)

    def _overlay_path(self, name: str) -> Path:
        return self.folder / "overlays" / f"{name}.{self.overlays}"

    def _confidence_path(self, name: str) -> Path:
        return self.folder / "confidence" / f"{name}.png"

    def _labelme_path(self, name: str) -> Path:
        return self.folder / "polygons" / f"{name}.json"


def plan_results(
    info: DatasetInfo,
    folder: Path,
    *,
    format: LabelFormat = "index",
    overlays: OverlayFormat = "png",
    alpha: Annotated[float, Range(0, 1)] = 0.5,
    hide: tuple[str, ...] | None = None,
    confidence: Confidence = "none",
    polygons: PolygonFormat = "none",
    regions: bool | None = None,
    fail_if: dict[str, str] | None = None,
) -> ResultFiles:
    """Choose what is written for each image.

    The files are ``labels/<name>.png``, ``overlays/<name>.<png|jpg>`` or one video, and ``confidence/<name>.png``, written atomically.

    Args:
        info: classes of the model.
        folder: the output directory.
        format: form of the label maps, see ``make_submission``. For a server, an archive is written as well.
        overlays: file format of the overlays. ``video`` is for a video, a camera or a stream, and ``none`` skips them.
        alpha, hide: opacity of the class colors in overlays, 0 to 1, and classes that stay clear. None hides the background class.
        confidence: ``max`` or ``entropy`` also write how certain the network is, on the scales of ``confidence.SCALES``.
        polygons: ``labelme`` writes ``polygons/<name>.json``, ``coco`` one ``polygons.json`` in the end, as drafts of labels.
        regions: whether ``images.csv`` lists the regions of all classes but the background. None means if there is a background.
        fail_if: class -> limit from which an image fails: ``50px`` for its largest region, ``2%`` for its share of the image.

    Raises:
        ConfigError: a class is unknown, a limit is invalid, or the server lacks a class.
    """
    background = info.background
    region_ids = (
        [k for k in range(info.num_classes) if k != background] if regions or (regions is None and background is not None) else []
    )
    return ResultFiles(
        folder,
        info,
        format,
        make_submission(info, format),
        overlays,
        alpha,
        hidden_ids(info, hide),
        confidence,
        polygons,
        region_ids,
        make_rules(fail_if, info.classes),
    )


def write_labels(path: Path, label: np.ndarray, info: DatasetInfo) -> None:
    """Write (H, W) class ids in the colors of the data set."""
    write_label_png(path, label, info.palette)


def write_rgb(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 as PNG or JPEG."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else []
    try:
        done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    except cv2.error:  # how OpenCV 4 fails
        done, encoded = False, np.empty(0)
    if not done:
        size = f"{pixels.shape[1]}x{pixels.shape[0]} pixels (W x H)"
        raise DataError(
            f"{printable(path)}: an image of {size} cannot be written as {path.suffix[1:]}. Set overlays=none or stream_megapixels."
        )
    data = encoded.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(data), durable=False)
