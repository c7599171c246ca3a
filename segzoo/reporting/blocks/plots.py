"""Plots as SVG text, drawn by matplotlib (extra ``plot``).

Their colors are those of the page, so they follow its dark and its light style.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from segzoo.resources import is_installed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = 'no plots were drawn, because matplotlib is not installed: pip install "segzoo[plot]"'
# matplotlib knows only fixed colors: these are replaced by the variables of the page
TEXT, MUTED, RULE, DATA, SECOND, THIRD = (f"#01020{number}" for number in range(6))
VARIABLES = {TEXT: "text", MUTED: "muted", RULE: "rule", DATA: "data", SECOND: "second", THIRD: "third"}
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "segzoo",
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page replaces it
    "font.size": 10,
    "text.parse_math": False,  # a class may be named $x$
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
}


class Plot(NamedTuple):
    """A plot of a page.

    Attributes:
        title: its heading.
        caption: a sentence that explains it.
        svg: an ``<svg>`` element.
    """

    title: str
    caption: str
    svg: str


def can_plot() -> bool:
    """Return true if matplotlib is installed."""
    return is_installed("matplotlib")


def svg_plot(title: str, caption: str, draw: Callable[[Axes], object], size: tuple[float, float] = (4.4, 2.8)) -> Plot:
    """Draw a plot.

    Args:
        title, caption: see ``Plot``.
        draw: draws on the axes, in the colors ``TEXT`` to ``THIRD``.
        size: width and height in inches, at which a page shows text at its usual size.
    """
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    style: dict[Any, Any] = {**STYLE, "axes.prop_cycle": cycler(color=[DATA, SECOND, THIRD])}
    with rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks, which browsers find in others
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Plot(title, caption, _embedded(file.getvalue(), title, round(96 * size[0])))


def _embedded(text: str, title: str, width: int) -> str:
    """Turn an SVG file into an element of a page.

    Ids get the title as prefix, since those of several plots would be the same.
    """
    from markupsafe import escape

    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # it would apply to the whole page
    start = f'<svg class="plot" role="img" aria-label="{escape(title)}" style="max-width: {width}px" '
    view_box = re.search(r'viewBox="[^"]*"', text)
    text = start + (view_box[0] if view_box else "") + text[text.index(">") :]
    prefix = re.sub(r"\W+", "-", title).lower()
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"(url\(|href=\")#", rf"\1#{prefix}-", text)
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return text
