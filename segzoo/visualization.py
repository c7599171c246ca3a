"""Visualization of label maps: colors, overlays, legends and comparison panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from segzoo.types import DatasetInfo

if TYPE_CHECKING:
    from PIL import ImageFont

IGNORED = (255, 255, 255)  # color of ignored pixels
BACKGROUND, FOREGROUND = (250, 250, 250), (20, 20, 20)


def colorize(label: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Color a label map (H, W) as (H, W, 3) uint8.

    Ids outside the palette, such as ignore, become white.
    """
    table = np.array([*info.palette, IGNORED], np.uint8)
    return table[np.minimum(label, info.num_classes).astype(np.int64)]


def overlay(image: np.ndarray, label: np.ndarray, info: DatasetInfo, alpha: float = 0.5) -> np.ndarray:
    """Blend the class colors into an image.

    Ignored pixels stay unchanged.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) train ids.
        info: palette.
        alpha: weight of the colors, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    blended = (1 - alpha) * image + alpha * colorize(label, info)
    labeled = (label < info.num_classes)[..., None]
    return np.where(labeled, np.round(blended), image).astype(np.uint8)


def with_legend(image: np.ndarray, labels: Iterable[np.ndarray], info: DatasetInfo) -> np.ndarray:
    """Append a legend of the classes in ``labels`` below an image.

    The classes are listed in the order of their ids.
    """
    present = sorted({int(value) for label in labels for value in np.unique(label)})
    names = [(info.classes[k], info.palette[k]) if k < info.num_classes else ("ignored", IGNORED) for k in present]
    return np.concatenate([image, legend(list(dict.fromkeys(names)), image.shape[1], font_size(image.shape[1]))])


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int, size: int) -> np.ndarray:
    """Strip of color swatches and names, wrapped into rows.

    Args:
        entries: name and color of each swatch.
        width: width of the strip in pixels.
        size: font height in pixels.
    """
    from PIL import Image, ImageDraw

    font, gap = _font(size), size // 2
    positions, x, y = [], gap, gap
    for name, color in entries:
        length = 2 * size + int(font.getlength(name))
        if x > gap and x + length > width:
            x, y = gap, y + size + gap
        positions.append((x, y, name, color))
        x += length + gap
    strip = Image.new("RGB", (width, y + size + gap), BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for x, y, name, color in positions:
        draw.rectangle((x, y, x + size, y + size), fill=color, outline=FOREGROUND)
        draw.text((x + size + size // 3, y + size // 2), name, fill=FOREGROUND, font=font, anchor="lm")
    return np.asarray(strip)


def comparison_panel(
    image: np.ndarray, ground_truth: np.ndarray, prediction: np.ndarray, info: DatasetInfo, title: str = "", height: int = 240
) -> np.ndarray:
    """Image, ground truth and prediction side by side.

    Each panel has a caption, and both label maps share one legend.

    Args:
        image: (H, W, 3) uint8.
        ground_truth, prediction: (H, W) train ids.
        info: classes and palette.
        title: caption of the image, such as its name.
        height: height of each panel in pixels. The width keeps the aspect ratio.
    """
    size = (max(1, round(image.shape[1] * height / image.shape[0])), height)
    captions = (title or "image", "ground truth", "prediction")
    panels = (image, colorize(ground_truth, info), colorize(prediction, info))
    text_size = font_size(3 * size[0])
    columns = [
        _captioned(_resized(panel, size, smooth=panel is image), caption, text_size)
        for panel, caption in zip(panels, captions, strict=True)
    ]
    return with_legend(np.concatenate(columns, axis=1), (ground_truth, prediction), info)


def image_grid(images: Sequence[np.ndarray]) -> np.ndarray:
    """Stack images of any sizes vertically."""
    width = max(image.shape[1] for image in images)
    rows = [np.pad(image, ((0, 8), (0, width - image.shape[1]), (0, 0)), constant_values=BACKGROUND[0]) for image in images]
    return np.concatenate(rows)


def font_size(width: int) -> int:
    """Readable font height in pixels for an image of that width."""
    return min(28, max(11, width // 45))


def _captioned(panel: np.ndarray, caption: str, size: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    bar = Image.new("RGB", (panel.shape[1], 2 * size), BACKGROUND)
    ImageDraw.Draw(bar).text(
        (size // 2, size), _fit_text(caption, panel.shape[1] - size, size), fill=FOREGROUND, font=_font(size), anchor="lm"
    )
    framed = panel.copy()
    framed[:, -1] = BACKGROUND
    return np.concatenate([np.asarray(bar), framed])


def _fit_text(text: str, width: int, size: int) -> str:
    """Truncate a text at its start if it is too long.

    The end of a file name is usually more informative.
    """
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def _resized(panel: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    from PIL import Image

    resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(panel).resize(size, resampling))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)
