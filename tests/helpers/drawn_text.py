"""Text drawn into images."""

from __future__ import annotations

from PIL import ImageDraw


def record_text(monkeypatch) -> list[str]:
    """Record every text drawn with Pillow."""
    texts, real = [], ImageDraw.ImageDraw.text

    def text(self, xy, text, *rest, **options):
        texts.append(text)
        return real(self, xy, text, *rest, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts
