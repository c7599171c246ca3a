"""Overlays and legends."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_text import record_text

from segzoo.types import DatasetInfo
from segzoo.visualization import drawing
from segzoo.visualization.drawing import (
    IGNORED,
    class_entries,
    colorize,
    drawable_text,
    font_size,
    legend,
    outlines,
    overlay,
    shown_rgb,
    with_legend,
)
from segzoo.visualization.palette import distinct_colors

CLASSES, PALETTE = ("sky", "road", "tree"), ((70, 130, 180), (128, 64, 128), (34, 139, 34))


def test_colors():
    label = np.array([[0, 2], [255, 1]], np.uint8)
    assert colorize(label, PALETTE).tolist() == [[[70, 130, 180], [34, 139, 34]], [list(IGNORED), [128, 64, 128]]]
    wide = np.array([[0, 65535]], np.uint16)
    assert colorize(wide, PALETTE)[0, 1].tolist() == list(IGNORED)


def regions():
    """Label map of two regions and an ignored corner."""
    label = np.zeros((60, 80), np.uint8)
    label[10:30, 10:30], label[35:55, 40:70], label[:5, :5] = 1, 2, 255
    return label


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_regions_are_tinted_and_outlined(alpha):
    label, image = regions(), np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    original = image.copy()
    view = overlay(image, label, PALETTE, hidden=[0], alpha=alpha)
    assert (view[(label == 0) | (label == 255)] == image[(label == 0) | (label == 255)]).all(), "the background stays clear"
    assert (view[10:12, 10:30] == PALETTE[1]).all() and (view[35:55, 68:70] == PALETTE[2]).all(), "outlines are 2 pixels wide"
    inside = (slice(12, 28), slice(12, 28))
    assert (view[inside] == np.round((1 - alpha) * image[inside] + alpha * np.array(PALETTE[1]))).all()
    assert (image == original).all()
    assert (overlay(image, label, PALETTE, alpha=1.0)[50:, :30] == PALETTE[0]).all(), "without hidden classes, all are tinted"


@pytest.mark.parametrize(
    "size, width", [((40, 30), 2), ((1000, 400), 2), ((2000, 900), 4), ((64, 3000), 6), ((1, 5), 2), ((7, 1), 2)]
)
def test_outlines_scale_with_the_image(size, width):
    label = np.zeros(size, np.uint8)
    label[:, size[1] // 2 :] = 1
    expected = np.abs(np.arange(size[1]) - size[1] // 2 + 0.5) < width
    assert (outlines(label) == (expected if size[1] > 1 else False)).all()


def test_the_legend_lists_exactly_the_visible_classes(monkeypatch):
    texts = record_text(monkeypatch)
    label = np.array([[2, 2, 0]] * 4, np.uint8).repeat(60, 1)
    image = with_legend(colorize(label, PALETTE), [label], CLASSES, PALETTE)
    assert texts == ["sky", "tree"] and (image[:4] == colorize(label, PALETTE)).all()
    strip = image[4:].reshape(-1, 3).tolist()
    assert list(PALETTE[0]) in strip and list(PALETTE[2]) in strip and list(PALETTE[1]) not in strip
    texts.clear()
    with_legend(image[:4], [label, np.array([[255, 1]])], CLASSES, PALETTE, hidden=[0])
    assert texts == ["road", "tree", "ignored"]
    assert with_legend(image[:4], [label * 0], CLASSES, PALETTE, hidden=[0]).shape == (4, 180, 3), "nothing to list"


@pytest.mark.parametrize("width", [40, 150, 400, 2000])
def test_a_legend_wraps_and_is_as_wide_as_its_words(width):
    entries = tuple((f"a class of many words {k}", (k, k, k)) for k in range(12))
    strip = legend(entries, width, 14)
    widest = max(drawing.text_length(text, 14) for text, _ in entries)
    assert strip.shape[1] == max(width, 14 + 14 // 3 + widest + 14) and strip.dtype == np.uint8
    assert legend(entries[:1], width, 14).shape[0] <= strip.shape[0] <= 12 * 25
    assert (strip[:, -1] == drawing.PAPER).all(), "no word is cut off"


def test_text_scales_with_the_image():
    small, large = np.zeros((360, 480, 3)), np.zeros((3000, 4000, 3))
    assert font_size(small) == 13 and font_size(large) == pytest.approx(font_size(small) * 8.33, rel=0.05)
    narrow = with_legend(
        np.zeros((500, 8, 3), np.uint8), [np.ones((500, 8), np.uint8)], ("a", "a long name of a class"), PALETTE[:2]
    )
    assert narrow.shape[1] > 100 and (narrow[:500, 8:] == drawing.PAPER).all()


def test_300_classes_have_300_entries():
    names, palette = tuple(f"class number {k}" for k in range(300)), distinct_colors(300)
    label = np.arange(300, dtype=np.uint16).reshape(15, 20).repeat(20, 0).repeat(20, 1)
    image = with_legend(colorize(label, palette), [label], names, palette)
    drawn, expected = (np.unique(np.asarray(colors, dtype=int) @ (1 << 16, 1 << 8, 1)) for colors in (image[300:], palette))
    assert np.isin(expected, drawn).all() and len(expected) == 300 and image.shape[1] == 400


@pytest.mark.parametrize("name", ["line\nbreak", "bidi \u202emark", "nul\0", "lone \ud800", "tab\t", "x" * 100_000])
def test_a_name_stays_on_one_line_of_the_legend(name):
    entries = class_entries([np.array([[0, 1]])], ("plain", name), PALETTE[:2])
    assert len(entries) == 2 and entries[1][0].isprintable() and len(entries[1][0]) <= 70
    assert legend(entries, 2000, 14).shape == (28, 2000, 3)


class CompleteFont:
    """A font that has every letter but U+FFFF."""

    def getmask(self, letter):
        mask = np.frombuffer(letter.encode("utf-8").ljust(4), np.uint8)
        return type("Mask", (), {"size": (2, 2), "__iter__": lambda self: iter(mask.tolist())})()


@pytest.fixture
def no_fonts(monkeypatch):
    """A system without fonts, and with all that was found before forgotten."""
    load = drawing._load_font
    monkeypatch.setattr(drawing, "_load_font", lambda name, size: None if name else load(name, size))
    for function in (drawing._font_with, drawing._warn_about_fonts):
        function.cache_clear()
    yield
    for function in (drawing._font_with, drawing._warn_about_fonts):
        function.cache_clear()


def test_a_name_without_a_font_becomes_its_number(no_fonts, capsys):
    chinese = DatasetInfo("zh", ("背景", "划痕", "pit"), PALETTE)
    for _ in range(2):
        entries = class_entries([np.array([[0, 1, 2]])], chinese.classes, PALETTE, hidden=[0])
    assert [text for text, _ in entries] == ["class 1", "pit"] and chinese.background == 0
    assert drawable_text("图像 a.png") == "?? a.png"
    assert capsys.readouterr().err.count("no font of this system has all letters") == 1


def test_a_system_font_with_the_letters_is_used(no_fonts, monkeypatch):
    load = drawing._load_font
    monkeypatch.setattr(drawing, "_load_font", lambda name, size: CompleteFont() if "CJK" in name else load(name, size))
    assert drawing._font_with("划痕 2") == "NotoSansCJK-Regular.ttc" and drawing._font_with("scratch") == ""
    assert drawable_text("划痕 2", "class 1") == "划痕 2"


def test_a_few_broken_pixels_do_not_darken_an_image_of_16_bits():
    image = np.linspace(1000, 2000, 10_000).reshape(100, 100, 1).round().astype(np.uint16)
    image[0, 0], image[4, 4] = 65535, 0
    shown = shown_rgb(image)
    assert 120 < np.median(shown) < 135 and (shown[0, 0] == 255).all() and (shown[4, 4] == 0).all()
