"""Shapes of the figures: feature maps, arrows and small grids, as SVG.

Every figure has a background of its own and follows the color scheme of the reader, so it can be read on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape

Kind = Literal["image", "conv", "dilated", "context", "score"]
Anchor = Literal["start", "middle", "end"]
MapRow = tuple[float, int, Kind, str, str]  # center, stride, kind, name and note of a feature map
LEGEND: dict[Kind, str] = {
    "conv": "convolutions",
    "dilated": "dilated convolutions",
    "context": "context",
    "score": "class scores",
}
LETTER = 5.4  # average width of a letter in a note, in pixels
SIDE = {1: 96, 2: 78, 4: 62, 8: 48, 16: 36, 32: 26}  # drawn height of a feature map by its stride, in pixels
STYLE = """
  text { font-family: sans-serif; font-size: 12px; fill: #1f2328; }
  .title { font-size: 14px; font-weight: bold; }
  .name { font-weight: bold; }
  .note { font-size: 11px; fill: #59636e; }
  .card { fill: #ffffff; stroke: #d1d9e0; }
  .line { fill: none; stroke: #59636e; stroke-width: 1.4; }
  .dashed { stroke-dasharray: 4 3; }
  .head { fill: #59636e; }
  .sum { fill: #ffffff; stroke: #59636e; stroke-width: 1.4; }
  .tick { fill: none; stroke: #d1d9e0; stroke-width: 1; }
  .cell { fill: none; stroke: #c8d1da; stroke-width: 0.6; }
  .image { fill: #c8d1da; }
  .conv { fill: #54aeff; }
  .dilated { fill: #a475f9; }
  .context { fill: #fb8f44; }
  .score { fill: #4ac26b; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .note { fill: #9198a1; }
    .card { fill: #151b23; stroke: #3d444d; }
    .line, .sum { stroke: #9198a1; }
    .sum { fill: #151b23; }
    .head { fill: #9198a1; }
    .cell, .tick { stroke: #3d444d; }
    .image { fill: #656c76; }
  }
"""


class Box(NamedTuple):
    """A drawn rectangle by its center and size, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x - self.width / 2, self.y

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def top(self) -> tuple[float, float]:
        return self.x, self.y - self.height / 2

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2


class Figure:
    """A figure that is drawn shape by shape.

    Args:
        title: heading, and the text for readers who cannot see the figure.
        width, height: in pixels.
        legend: meaning of the colors.
    """

    def __init__(self, title: str, width: int, height: int, legend: Mapping[Kind, str] = LEGEND):
        self.title, self.width, self.height, self.legend = title, width, height, legend
        self.shapes: list[str] = []
        self.kinds: set[Kind] = set()
        self.text(16, 26, title, "title", "start")

    def text(self, x: float, y: float, text: str, style: str = "note", anchor: Anchor = "middle") -> None:
        """Write a line of text with its baseline at ``y``."""
        self.shapes.append(f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>')

    def map(self, x: float, y: float, stride: int, kind: Kind, name: str = "", note: str = "", width: float = 20) -> Box:
        """Draw a feature map as high as its stride says.

        The name is written above it, the note below.
        """
        return self.box(x, y, width, SIDE[stride], kind, name, note)

    def maps(self, y: float, rows: Sequence[MapRow]) -> list[Box]:
        """Draw feature maps from left to right."""
        return [self.map(x, y, stride, kind, name, note) for x, stride, kind, name, note in rows]

    def box(self, x: float, y: float, width: float, height: float, kind: Kind, name: str = "", note: str = "") -> Box:
        """Draw a filled rectangle around a center."""
        box = Box(x, y, width, height)
        self.kinds.add(kind)
        self._rect(box, kind)
        if name:
            self.text(x, box.top[1] - 7, name, "name")
        for number, line in enumerate(note.split("\n") if note else ()):
            self.text(x, box.bottom[1] + 14 + 13 * number, line)
        return box

    def dot(self, x: float, y: float, kind: Kind, radius: float = 5) -> None:
        """Draw a filled circle."""
        self.kinds.add(kind)
        self.shapes.append(f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')

    def line(self, *points: tuple[float, float], style: str = "line") -> None:
        """Draw a line through points."""
        self.shapes.append(f'<path class="{style}" d="{_path(points)}"/>')

    def sum(self, x: float, y: float, radius: float = 8) -> Box:
        """Draw the sign of a sum."""
        self.shapes.append(f'<circle class="sum" cx="{x:g}" cy="{y:g}" r="{radius:g}"/>')
        half = radius / 2
        self.shapes.append(f'<path class="line" d="M{x - half:g} {y:g}H{x + half:g}M{x:g} {y - half:g}V{y + half:g}"/>')
        return Box(x, y, 2 * radius, 2 * radius)

    def arrow(self, *points: tuple[float, float], label: str = "", dashed: bool = False) -> None:
        """Draw an arrow through points.

        The label is written at the middle of its last part.
        """
        style = "line dashed" if dashed else "line"
        self.shapes.append(f'<path class="{style}" d="{_path(points)}" marker-end="url(#head)"/>')
        if label:
            (x0, y0), (x1, y1) = points[-2:]
            upright = x0 == x1
            self.text(
                (x0 + x1) / 2 + (5 if upright else 0),
                (y0 + y1) / 2 + (4 if upright else -6),
                label,
                anchor="start" if upright else "middle",
            )

    def chain(self, boxes: Sequence[Box]) -> None:
        """Draw an arrow from each box to the next one."""
        for before, after in zip(boxes, boxes[1:], strict=False):
            self.arrow(before.right, after.left)

    def grid(self, box: Box, cells: int, filled: Sequence[tuple[int, int]] = (), kind: Kind = "dilated") -> None:
        """Draw lines between the cells of a box, and fill some cells."""
        self.kinds.add(kind)
        x0, y0, step = box.left[0], box.top[1], box.width / cells
        for row, column in filled:
            self._rect(Box(x0 + (column + 0.5) * step, y0 + (row + 0.5) * step, step, step), kind, 1)
        lines = "".join(
            f"M{x0:g} {y0 + k * step:g}h{box.width:g}M{x0 + k * step:g} {y0:g}v{box.height:g}" for k in range(cells + 1)
        )
        self.shapes.append(f'<path class="cell" d="{lines}"/>')

    def svg(self) -> str:
        """Return the content of the file.

        A legend of the colors is in the top right corner.
        """
        shown: list[Kind] = [kind for kind in self.legend if kind in self.kinds]
        x = self.width - sum(LETTER * len(self.legend[kind]) + 34 for kind in shown)
        for kind in shown:
            self._rect(Box(x + 5, 22, 10, 10), kind, 2)
            self.text(x + 15, 26, self.legend[kind], anchor="start")
            x += LETTER * len(self.legend[kind]) + 34
        head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker>'
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(self.title)}</title>\n'
        card = f'<rect class="card" x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="8"/>'
        return start + f"<style>{STYLE}</style>\n<defs>{head}</defs>\n" + "\n".join([card, *self.shapes]) + "\n</svg>\n"

    def _rect(self, box: Box, kind: Kind, radius: float = 3) -> None:
        x, y = box.left[0], box.top[1]
        self.shapes.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{box.width:g}" height="{box.height:g}" rx="{radius:g}"/>'
        )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
