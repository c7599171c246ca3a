"""The prediction for one image: labels, areas, regions and files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from segzoo.data.annotations.drafts import DraftImage, coco_record, labelme_record, relative_name
from segzoo.data.annotations.polygons import RegionPolygon, region_polygons
from segzoo.data.dataset_info import hidden_ids
from segzoo.data.inspection.blobs import class_blobs
from segzoo.io import write_atomically, write_json
from segzoo.reporting.html import render_template
from segzoo.types import DatasetInfo
from segzoo.visualization.drawing import overlay, shown_rgb, with_legend
from segzoo.visualization.label_png import write_label_png
from segzoo.visualization.layers import downscale_image, downscale_label, page_size

NOTEBOOK_PIXELS = 2**19  # of the overlay in a notebook
SaveFormat = Literal["labels", "overlay", "labelme", "coco"]
SUFFIXES: dict[str, tuple[str, ...]] = {"labels": (".png",), "overlay": (".png", ".jpg", ".jpeg")}
SUFFIXES |= dict.fromkeys(("labelme", "coco"), (".json",))


class ClassArea(NamedTuple):
    """Area of a class in pixels, and as its share."""

    pixels: int
    share: float


class Region(NamedTuple):
    """Connected pixels of one class.

    Attributes:
        class_name: name of the class.
        class_id: its train id.
        box: left, top, width and height in pixels.
        area: number of pixels.
    """

    class_name: str
    class_id: int
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Label map of one image, and what follows from it.

    A notebook shows the overlay and the areas of the classes.

    Attributes:
        image: (H, W, C) uint8 or uint16, upright.
        labels: (H, W) train ids, uint8 up to 255 classes, int32 above.
        info: names and colors of the classes.
        path: the file that the image was read from, or None.
        probabilities: (K, H, W) float32, if they were asked for, else None.
        confidence: (H, W) uint8, 255 times the highest class probability, if it was asked for, else None.
    """

    image: np.ndarray
    labels: np.ndarray
    info: DatasetInfo
    path: Path | None = None
    probabilities: np.ndarray | None = None
    confidence: np.ndarray | None = None

    def __repr__(self) -> str:
        """Size and visible classes, on one line."""
        height, width = self.labels.shape
        found = [f"{name} {area.share:.1%}" for name, area in self.areas.items() if area.pixels]
        listed = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        source = f" of {self.path.name}" if self.path else ""
        return f"<Prediction{source}, {height} x {width} pixels: {listed}>"

    def _repr_html_(self) -> str:
        """Overlay, and areas of the classes with their colors."""
        size = page_size(self.labels.shape, NOTEBOOK_PIXELS)
        small = overlay(
            downscale_image(self.shown, size), downscale_label(self.labels, size), self.info.palette, hidden_ids(self.info, None)
        )
        rows = [
            ("#{:02x}{:02x}{:02x}".format(*color), name, area)
            for color, (name, area) in zip(self.info.palette, self.areas.items(), strict=True)
            if area.pixels
        ]
        rows.sort(key=lambda row: -row[2].pixels)
        title = self.path.name if self.path else ""
        png = base64.b64encode(_png(small)).decode()
        return render_template("prediction.html", title=title, size=self.labels.shape, png=png, rows=rows)

    @property
    def shown(self) -> np.ndarray:
        """The image as (H, W, 3) uint8, with the shown channels."""
        return shown_rgb(self.image, self.info.show_channels)

    @cached_property
    def areas(self) -> dict[str, ClassArea]:
        """Area of every class by its name, absent ones included."""
        counts = np.bincount(self.labels.ravel(), minlength=self.info.num_classes).tolist()
        return {name: ClassArea(counts[k], counts[k] / self.labels.size) for k, name in enumerate(self.info.classes)}

    @cached_property
    def regions(self) -> list[Region]:
        """Connected regions, 8-connected, the largest of each class first.

        The background is none.
        """
        return [
            Region(self.info.classes[k], k, tuple(blobs.boxes[n].tolist()), int(blobs.areas[n]))  # type: ignore[arg-type]
            for k, blobs in class_blobs(self.labels, self.info)
            if k != self.info.background
            for n in np.argsort(-blobs.areas, kind="stable").tolist()
        ]

    def polygons(self, tolerance: float = 1.0, min_area: int = 1) -> list[RegionPolygon]:
        """Outline the regions by polygons, the largest first.

        A region with holes is one polygon that reaches them over bridges of no width.

        Args:
            tolerance: how far a polygon may lie from the outline of its region, in pixels. 0 keeps every corner.
            min_area: smaller regions are left out, in pixels.
        """
        return region_polygons(self.labels, self.info, tolerance, min_area)

    def overlay(self, alpha: float = 0.5, hide: Sequence[str] | None = None, legend: bool = True) -> Image.Image:
        """Draw the regions over the image, in the colors of their classes.

        Args:
            alpha: opacity of the colors, 0 to 1. Outlines are opaque.
            hide: classes that stay clear. None hides the background, ``()`` nothing.
            legend: append a legend of the visible classes below the image.

        Raises:
            ValueError: alpha is out of range.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha}, expected 0 to 1")
        hidden = hidden_ids(self.info, hide)
        tinted = overlay(self.shown, self.labels, self.info.palette, hidden, alpha)
        if legend:
            tinted = with_legend(tinted, [self.labels], self.info.classes, self.info.palette, hidden)
        return Image.fromarray(tinted)

    def save(self, path: str | Path, format: SaveFormat = "labels", tolerance: float = 1.0) -> Path:
        """Write a file, creating its folder.

        Args:
            path: the file. It is replaced if it exists.
            format: ``labels``: a palette PNG of class ids, as ``tools/predict.py`` writes it; ``overlay``: PNG or JPEG with a legend;
                ``labelme`` and ``coco``: JSON of the polygons, as drafts of labels. LabelMe expects it next to the image, under its name.
                For LabelMe, an image that was not read from a file is embedded.
            tolerance: of the polygons, as for ``polygons``.

        Returns:
            The path.

        Raises:
            ValueError: the format is unknown, the suffix does not suit it, or the path is that of the image itself.
        """
        path = Path(path)
        if format not in SUFFIXES:
            raise ValueError(f"format={format!r}, expected one of {', '.join(SUFFIXES)}")
        if path.suffix.lower() not in SUFFIXES[format]:
            raise ValueError(f"{path}: expected a file ending in {' or '.join(SUFFIXES[format])} for format={format!r}")
        if self.path and path.exists() and path.samefile(self.path):
            raise ValueError(f"{path} is the image itself, which would be lost: choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        if format == "labels":
            write_label_png(path, self.labels, self.info.palette)
        elif format == "overlay":
            drawn, is_png = self.overlay(), path.suffix.lower() == ".png"
            write_atomically(path, lambda file: drawn.save(file, "PNG" if is_png else "JPEG", quality=92), durable=False)
        else:
            name = relative_name(self.path, path) if self.path else f"{path.stem}.png"
            image = DraftImage(name, self.labels.shape, self.polygons(tolerance))
            embedded = None if self.path else _png(self.shown)
            write_json(path, labelme_record(image, embedded) if format == "labelme" else coco_record([image], self.info))
        return path


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
