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


def format_number(number: float) -> str:
    """Format a number with three digits, or all before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def format_p_value(p_value: float) -> str:
    """Format a p-value with three digits."""
    return f"{p_value:.3f}" if p_value >= 0.001 else "<0.001"


def format_count(count: object, unit: str) -> str:
    """Format a count with its unit: ``1 image``, ``2 images``."""
    return f"{count} {unit}{'s' * (count != 1)}"
