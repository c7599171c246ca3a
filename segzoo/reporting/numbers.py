"""Numbers as tables show them."""

from __future__ import annotations

from collections.abc import Sequence


def format_percent(fraction: float, digits: int = 2) -> str:
    """Format a fraction as a percentage without the sign."""
    return f"{100 * fraction:.{digits}f}"


def format_interval(bounds: Sequence[float] | None, digits: int = 2) -> str:
    """Format an interval of fractions in percent, ``-`` for none."""
    return "-" if bounds is None else " to ".join(format_percent(bound, digits) for bound in bounds)


def format_millions(count: float) -> str:
    """Format a count in millions."""
    return f"{count / 1e6:.2f} M"


def format_ms(milliseconds: float) -> str:
    """Format milliseconds with three digits, or all before the point."""
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
