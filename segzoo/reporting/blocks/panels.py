"""Images with ground truth, predictions and errors, embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segzoo.types import DatasetInfo
from segzoo.visualization.drawing import IGNORED, Color, overlay, shown_rgb
from segzoo.visualization.layers import downscale_image, downscale_label
from segzoo.visualization.panels import ERRORS, error_kinds, mark_errors

MAX_SIDES = (480, 360, 240, 120)  # longer side of an image in pixels; the first that fits into MAX_BYTES
MAX_BYTES = 6_000_000  # of all images of a page, which then stays below 10 MB
JPEG_QUALITY = 82


@dataclass
class Example:
    """An image, its labels and predictions of it.

    Attributes:
        name: of the image.
        caption: what to see.
        image: (H, W, C).
        label: (H, W) train ids.
        predictions: name of each model and its train ids (h, w).
    """

    name: str
    caption: str
    image: np.ndarray
    label: np.ndarray
    predictions: Mapping[str, np.ndarray]
    views: list[tuple[str, str]] = field(default_factory=list)  # title and data URI, see ``embed_images``


def embed_images(examples: Sequence[Example], info: DatasetInfo) -> None:
    """Draw the views of examples, small enough for a page.

    Args:
        examples: their ``views`` are set.
        info: classes and palette.
    """
    for side in MAX_SIDES:
        for example in examples:
            example.views = [(title, _data_uri(view)) for title, view in _views(example, info, side)]
        if sum(len(uri) for example in examples for _, uri in example.views) <= MAX_BYTES:
            return


def legend(examples: Sequence[Example], info: DatasetInfo) -> list[tuple[str, str]]:
    """Name and color of the classes and errors in the views."""
    maps = [each for example in examples for each in (example.label, *example.predictions.values())]
    present = sorted({int(value) for each in maps for value in np.unique(each)} - {info.background})
    entries: list[tuple[str, Color]] = [(info.classes[value], info.palette[value]) for value in present if value < info.num_classes]
    entries += [("ignored", IGNORED)] if any(value >= info.num_classes for value in present) else []
    entries += [(f"error: {name}", color) for name, color in ERRORS if info.background is not None or name == "wrong class"]
    return [(name, "#{:02x}{:02x}{:02x}".format(*color)) for name, color in entries]


def _views(example: Example, info: DatasetInfo, side: int) -> list[tuple[str, np.ndarray]]:
    height, width = example.image.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = downscale_image(shown_rgb(example.image, info.show_channels), size)
    hidden = () if info.background is None else (info.background,)
    views = [("image", image), ("ground truth", overlay(image, _small(example.label, size), info.palette, hidden))]
    several = len(example.predictions) > 1
    for name, prediction in example.predictions.items():
        of = f" of {name}" if several else ""
        views.append((f"prediction{of}", overlay(image, _small(prediction, size), info.palette, hidden)))
        views.append((f"errors{of}", _error_view(image, example.label, prediction, info)))
    return views


def _error_view(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Mark the wrong pixels on a dimmed gray image.

    They are found at the size of the label, so small ones stay visible.
    """
    kinds = error_kinds(label, _nearest(prediction, label.shape), info)
    return mark_errors(image, _small(kinds, (image.shape[0], image.shape[1])))


def _small(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label map for a view and keep small blobs."""
    if label.shape[0] <= size[0] and label.shape[1] <= size[1]:
        return _nearest(label, size)
    return downscale_label(label, size)


def _nearest(label: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    from PIL import Image

    if label.shape == size:
        return label
    return np.asarray(Image.fromarray(label.astype(np.int32)).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _data_uri(view: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(view).save(file, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
