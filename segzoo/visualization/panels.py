"""Images with their ground truth, prediction and errors side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from segzoo.types import DatasetInfo
from segzoo.visualization.drawing import INK, PAPER, class_entries, drawable_text, font_for, legend, overlay, shown_rgb, text_length

SIDE = 400  # length of the longer side of a panel in pixels
TEXT = 15  # font height in pixels
ERRORS = (("missed", (255, 0, 255)), ("false alarm", (0, 255, 255)), ("wrong class", (255, 255, 0)))


def comparison_panel(
    image: np.ndarray,
    ground_truth: np.ndarray,
    prediction: np.ndarray,
    info: DatasetInfo,
    captions: tuple[str, str, str, str] = ("image", "ground truth", "prediction", "errors"),
) -> np.ndarray:
    """Image, ground truth, prediction and errors side by side.

    Args:
        image: (H, W, C).
        ground_truth, prediction: (H, W) train ids.
        info: classes and palette.
        captions: text above each panel.
    """
    image = shown_rgb(image, info.show_channels)
    scale = SIDE / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    image, expected, predicted = _resized(image, size, smooth=True), _resized(ground_truth, size), _resized(prediction, size)
    hidden = () if info.background is None else (info.background,)
    views = [
        image,
        *(overlay(image, label, info.palette, hidden) for label in (expected, predicted)),
        error_view(image, expected, predicted, info),
    ]
    return np.concatenate([_captioned(view, text) for view, text in zip(views, captions, strict=True)], axis=1)


def error_view(image: np.ndarray, ground_truth: np.ndarray, prediction: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Mark the wrong pixels on a dimmed gray image.

    A foreground class predicted as background is missed, the reverse is a false alarm. Ignored pixels are never wrong.
    """
    return mark_errors(image, error_kinds(ground_truth, prediction, info))


def error_kinds(ground_truth: np.ndarray, prediction: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Number the kinds of errors as in ``ERRORS``, from 1.

    Right and ignored pixels are 0.

    Shapes:
        (H, W), (H, W) -> (H, W) uint8
    """
    wrong = (ground_truth != prediction) & (ground_truth < info.num_classes)
    background = -1 if info.background is None else info.background
    kinds = np.where(prediction == background, 1, np.where(ground_truth == background, 2, 3))
    return np.where(wrong, kinds, 0).astype(np.uint8)


def mark_errors(image: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Color the errors of ``error_kinds`` on a dimmed gray image."""
    view = (np.asarray(Image.fromarray(image).convert("L")) // 2)[..., None].repeat(3, 2)
    for number, (_, color) in enumerate(ERRORS, 1):
        view[kinds == number] = color
    return view


def comparison_grid(
    panels: Sequence[np.ndarray], labels: Sequence[tuple[np.ndarray, np.ndarray]], info: DatasetInfo, title: str = ""
) -> np.ndarray:
    """Stack panels below a title and above one legend.

    Args:
        panels: from ``comparison_panel``.
        labels: ground truth and prediction of each panel, whose classes and errors the legend lists.
        info: classes and palette.
        title: a line of text. None is drawn if it is empty.
    """
    hidden = () if info.background is None else (info.background,)
    entries = class_entries((label for pair in labels for label in pair), info.classes, info.palette, hidden)
    kinds = {int(kind) for pair in labels for kind in np.unique(error_kinds(*pair, info))}
    entries += tuple((f"error: {name}", color) for number, (name, color) in enumerate(ERRORS, 1) if number in kinds)
    width = max(panel.shape[1] for panel in panels)
    rows = [*([_text_bar(title, width)] if title else []), *panels, *([legend(entries, width, TEXT)] if entries else [])]
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=PAPER[0]) for row in rows])


def _captioned(panel: np.ndarray, caption: str) -> np.ndarray:
    framed = panel.copy()
    framed[:, -2:] = PAPER
    return np.concatenate([_text_bar(caption, panel.shape[1]), framed])


def _text_bar(text: str, width: int) -> np.ndarray:
    """A line of text, truncated at its start to the width.

    The end of a file name is usually more informative.
    """
    text = kept = drawable_text(text)
    while kept and text_length(text, TEXT) > width - TEXT:
        kept = kept[1:]
        text = "…" + kept
    bar = Image.new("RGB", (width, 2 * TEXT), PAPER)
    ImageDraw.Draw(bar).text((TEXT // 2, TEXT), text, fill=INK, font=font_for(text, TEXT), anchor="lm")
    return np.asarray(bar)


def _resized(pixels: np.ndarray, size: tuple[int, int], smooth: bool = False) -> np.ndarray:
    """Resize (H, W, 3) uint8 or (H, W) labels to (width, height)."""
    if smooth:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    return np.asarray(Image.fromarray(pixels.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
