"""Overlays and legends of label maps.

A bundle contains a copy of this file, so it imports nothing but NumPy and Pillow.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Color = Sequence[int]  # red, green and blue, 0 to 255
Entries = tuple[tuple[str, tuple[int, ...]], ...]  # text and color of each class in a legend

IGNORED = (255, 255, 255)  # color of ignored pixels
PAPER, INK = (250, 250, 250), (20, 20, 20)
TINTED_ROWS = 32  # blended at a time, so that their floats stay in a CPU's cache
MAX_LETTERS = 60  # longer names are truncated in legends
# File names of fonts with many letters, which Pillow searches in the system's folders. Its built-in font has Latin letters only.
FONTS = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "NotoSansSC-Regular.otf"),
    *("wqy-microhei.ttc", "wqy-zenhei.ttc", "SourceHanSansSC-Regular.otf", "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf"),
    *("arial.ttf", "msyh.ttc", "simhei.ttf", "simsun.ttc", "meiryo.ttc", "malgun.ttf"),  # Windows
    *("Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc"),  # macOS
)


def colorize(label: np.ndarray, palette: Sequence[Color]) -> np.ndarray:
    """Color a label map (H, W) as (H, W, 3) uint8.

    Ids outside the palette, such as ignore, become white.
    """
    return np.array([*palette, IGNORED], np.uint8).take(label, axis=0, mode="clip")


def overlay(
    image: np.ndarray, label: np.ndarray, palette: Sequence[Color], hidden: Collection[int] = (), alpha: float = 0.5
) -> np.ndarray:
    """Tint and outline the regions of an image in their colors.

    Ignored pixels and hidden classes stay clear.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) train ids.
        palette: color of each class.
        hidden: train ids that stay clear, such as that of the background.
        alpha: opacity of the tint, 0 to 1. Outlines are opaque.

    Returns:
        (H, W, 3) uint8.
    """
    shown = np.array([k not in hidden for k in range(len(palette))] + [False])
    opacity = np.where(shown, np.float32(alpha), np.float32(0))
    tints = opacity[:, None] * np.array([*palette, IGNORED], np.float32)
    view = np.empty_like(image)
    for first in range(0, len(image), TINTED_ROWS):
        rows = slice(first, first + TINTED_ROWS)
        mixed = image[rows] * (1 - opacity).take(label[rows], mode="clip")[..., None]
        mixed += tints.take(label[rows], axis=0, mode="clip")
        view[rows] = np.rint(mixed, out=mixed)
    edges = outlines(label) & shown.take(label, mode="clip")
    view[edges] = colorize(label[edges], palette)
    return view


def shown_rgb(image: np.ndarray, channels: Sequence[int] | None = None) -> np.ndarray:
    """Convert an image of any channels to one that can be shown.

    Samples of 16 bits are stretched from their 0.5th to their 99.5th percentile.

    Args:
        image: (H, W, C) uint8 or uint16.
        channels: positions of one channel, shown in gray, or of three for red, green and blue. None means the first three, or else the
            first.

    Returns:
        (H, W, 3) uint8, the image itself if it is that already.
    """
    if channels is None:
        channels = (0, 1, 2) if image.shape[2] >= 3 else (0,)
    if image.dtype == np.uint8 and image.shape[2] == 3 and tuple(channels) == (0, 1, 2):
        return image
    picked = image.take([*channels] * (3 // len(channels)), axis=2)
    if picked.dtype == np.uint8:
        return picked
    low, high = np.percentile(picked[::4, ::4], (0.5, 99.5))  # of a sixteenth of the pixels
    return np.rint((picked - low).clip(0, None) * (255 / max(high - low, 1))).clip(0, 255).astype(np.uint8)


def outlines(label: np.ndarray) -> np.ndarray:
    """Find the pixels next to another label.

    The outline of a region is 2 pixels wide in images of up to 1000 pixels, and proportionally wider in larger ones.

    Shapes:
        (H, W) -> (H, W) bool
    """
    width = max(2, round(max(label.shape) / 500))
    near = np.zeros(label.shape, bool)
    for axis in (0, 1):
        labels, flags = np.moveaxis(label, axis, 0), np.moveaxis(near, axis, 0)
        for distance in range(1, min(width, len(labels) - 1) + 1):
            differs = labels[distance:] != labels[:-distance]
            flags[distance:] |= differs
            flags[:-distance] |= differs
    return near


def with_legend(
    image: np.ndarray, labels: Iterable[np.ndarray], classes: Sequence[str], palette: Sequence[Color], hidden: Collection[int] = ()
) -> np.ndarray:
    """Append a legend of the visible classes in ``labels`` below an image.

    The classes are listed in the order of their ids. An image narrower than a class name is widened at its right.
    """
    entries = class_entries(labels, classes, palette, hidden)
    if not entries:
        return image
    below = legend(entries, image.shape[1], font_size(image))
    canvas = np.full((len(image) + len(below), below.shape[1], 3), PAPER[0], np.uint8)
    canvas[: len(image), : image.shape[1]] = image
    canvas[len(image) :] = below
    return canvas


def class_entries(
    labels: Iterable[np.ndarray], classes: Sequence[str], palette: Sequence[Color], hidden: Collection[int] = ()
) -> Entries:
    """List the text and color of every visible class in label maps.

    The text is the name, or the number of the class if no font has the letters of its name.
    """
    values = {value for label in labels for value in np.flatnonzero(np.bincount(label.ravel())).tolist()}
    present = sorted({min(value, len(classes)) for value in values} - set(hidden))
    shown, colors = [*(name[:MAX_LETTERS] for name in classes), "ignored"], [*palette, IGNORED]
    return tuple((drawable_text(shown[k], f"class {k}"), tuple(colors[k])) for k in present)


@lru_cache(4)  # of megabytes each; the frames of a video share one
def legend(entries: Entries, width: int, size: int) -> np.ndarray:
    """Draw color swatches and names, wrapped into rows.

    Args:
        entries: text and color of each swatch.
        width: width of the strip in pixels. An entry that is wider widens it.
        size: font height in pixels.
    """
    gap, positions = size // 2, []
    lengths = [size + size // 3 + text_length(text, size) for text, _ in entries]
    width = max([width, *(length + 2 * gap for length in lengths)])
    x, y = gap, gap
    for (text, color), length in zip(entries, lengths, strict=True):
        if x > gap and x + length + gap > width:
            x, y = gap, y + size + gap
        positions.append((x, y, text, color))
        x += length + 2 * gap
    strip = Image.new("RGB", (width, y + size + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, text, color in positions:
        draw.rectangle((x, y, x + size, y + size), fill=tuple(color), outline=INK)
        draw.text((x + size + size // 3, y + size // 2), text, fill=INK, font=font_for(text, size), anchor="lm")
    return np.asarray(strip)


def font_size(image: np.ndarray) -> int:
    """Readable font height in pixels for an image."""
    return max(12, round((image.shape[0] * image.shape[1]) ** 0.5 / 32))


def text_length(text: str, size: int) -> int:
    """Width of a text in pixels."""
    return int(np.ceil(font_for(text, size).getlength(text)))


def drawable_text(text: str, replacement: str | None = None) -> str:
    """Make a text fit to be drawn on one line.

    Control characters, such as line breaks and marks of the writing direction, are escaped.

    Args:
        text: any text.
        replacement: drawn instead if no font has the letters. None replaces only the letters.
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    if _font_with(escaped) is not None:
        return escaped
    _warn_about_fonts()
    return replacement or "".join(c if _font_with(c) is not None else "?" for c in escaped)


@cache
def _font_with(text: str) -> str | None:
    """Find a font that has every letter of a text.

    Returns:
        A file name, empty for Pillow's own font; None if there is no such font.
    """
    return next((name for name in ("", *FONTS) if _has_letters(name, text)), None)


def _has_letters(name: str, text: str) -> bool:
    """Check that a font has every letter of a text.

    Fonts draw all letters that they lack like U+FFFF, which is none.
    """
    font = _load_font(name, 16)
    return font is not None and all(c == " " or _glyph(font, c) != _glyph(font, "\uffff") for c in set(text))


def _glyph(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask: Any = font.getmask(letter)  # iterable, which its type does not say
    return mask.size, bytes(mask)


@cache
def _load_font(name: str, size: int) -> Font | None:
    """Load a font by its file name, if the system has it."""
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)
    except OSError:
        return None


def font_for(text: str, size: int) -> Font:
    """Load the first font that has every letter of a text."""
    font = _load_font(_font_with(text) or "", size)
    assert font is not None  # Pillow has its own, and the others have been loaded
    return font


@cache
def _warn_about_fonts() -> None:
    """Print once that letters are missing."""
    print(
        "note: no font of this system has all letters of the names, so images show numbers instead. Install one, such as Noto Sans CJK.",
        file=sys.stderr,
        flush=True,
    )
