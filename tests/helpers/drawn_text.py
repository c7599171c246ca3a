"""Text drawn into images."""

from __future__ import annotations

from PIL import ImageDraw

from segzoo.visualization.drawing import legend


def record_text(monkeypatch) -> list[str]:
    """Record every text drawn with Pillow."""
    legend.cache_clear()
    texts, real = [], ImageDraw.ImageDraw.text

    def text(self, xy, text, *rest, **options):
        texts.append(text)
        return real(self, xy, text, *rest, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts
