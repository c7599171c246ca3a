"""Images a person can judge: classes in their colors, over the photograph or beside it, with a legend of what is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from segzoo.types import DatasetInfo

IGNORED = (255, 255, 255)  # color of pixels that count nowhere, in label maps drawn for people
PAPER, INK = (250, 250, 250), (20, 20, 20)


def colorize(label: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """(H, W) train ids -> (H, W, 3) uint8 in the info's palette; ids outside it, such as ignore, are white."""
    table = np.array([*info.palette, IGNORED], np.uint8)
    return table[np.minimum(label, info.num_classes).astype(np.int64)]


def overlay(image: np.ndarray, label: np.ndarray, info: DatasetInfo, alpha: float = 0.5) -> np.ndarray:
    """The classes' colors over an image (H, W, 3) uint8; ignored pixels stay as they are.

    Args:
        image: the image.
        label: train ids, of the same size.
        info: palette.
        alpha: weight of the colors, 0 to 1.
    """
    mixed = (1 - alpha) * image + alpha * colorize(label, info)
    known = (label < info.num_classes)[..., None]
    return np.where(known, np.round(mixed), image).astype(np.uint8)


def with_legend(picture: np.ndarray, labels: Iterable[np.ndarray], info: DatasetInfo) -> np.ndarray:
    """The image with a strip below it that names the classes present in ``labels``, in the order of their ids."""
    present = sorted({int(value) for label in labels for value in np.unique(label)})
    names = [(info.classes[k], info.palette[k]) if k < info.num_classes else ("ignored", IGNORED) for k in present]
    return np.concatenate([picture, legend(list(dict.fromkeys(names)), picture.shape[1], font_size(picture.shape[1]))])


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int, size: int) -> np.ndarray:
    """A strip ``width`` pixels wide of color squares and names, in as many rows as they need."""
    from PIL import Image, ImageDraw

    font, gap = _font(size), size // 2
    places, x, y = [], gap, gap
    for name, color in entries:
        length = 2 * size + int(font.getlength(name))
        if x > gap and x + length > width:
            x, y = gap, y + size + gap
        places.append((x, y, name, color))
        x += length + gap
    strip = Image.new("RGB", (width, y + size + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, name, color in places:
        draw.rectangle((x, y, x + size, y + size), fill=color, outline=INK)
        draw.text((x + size + size // 3, y + size // 2), name, fill=INK, font=font, anchor="lm")
    return np.asarray(strip)


def comparison_panel(
    image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, info: DatasetInfo, title: str = "", height: int = 240
) -> np.ndarray:
    """Image, truth and prediction side by side, captioned, with one legend for both label maps.

    Args:
        image: (H, W, 3) uint8.
        truth, prediction: (H, W) train ids.
        info: classes and palette.
        title: stands over the image, such as its name.
        height: of each panel in pixels; the width follows.
    """
    size = (max(1, round(image.shape[1] * height / image.shape[0])), height)
    captions = (title or "picture", "truth", "prediction")
    panels = (image, colorize(truth, info), colorize(prediction, info))
    text = font_size(3 * size[0])
    columns = [
        _captioned(_resized(panel, size, smooth=panel is image), caption, text)
        for panel, caption in zip(panels, captions, strict=True)
    ]
    return with_legend(np.concatenate(columns, axis=1), (truth, prediction), info)


def image_grid(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Images of any sizes below each other on one page."""
    width = max(picture.shape[1] for picture in pictures)
    rows = [np.pad(p, ((0, 8), (0, width - p.shape[1]), (0, 0)), constant_values=PAPER[0]) for p in pictures]
    return np.concatenate(rows)


def font_size(width: int) -> int:
    """A height of letters in pixels that can be read on an image of that width."""
    return min(28, max(11, width // 45))


def _captioned(panel: np.ndarray, caption: str, size: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    bar = Image.new("RGB", (panel.shape[1], 2 * size), PAPER)
    ImageDraw.Draw(bar).text(
        (size // 2, size), _fit_text(caption, panel.shape[1] - size, size), fill=INK, font=_font(size), anchor="lm"
    )
    framed = panel.copy()
    framed[:, -1] = PAPER
    return np.concatenate([np.asarray(bar), framed])


def _fit_text(text: str, width: int, size: int) -> str:
    """The text, its start replaced by an ellipsis where it is too long: the end of a file's name tells more."""
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def _resized(panel: np.ndarray, size: tuple[int, int], smooth: bool) -> np.ndarray:
    from PIL import Image

    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(panel).resize(size, kind))


def _font(size: int):
    from PIL import ImageFont

    return ImageFont.load_default(size)
