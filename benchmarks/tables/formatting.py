"""Helpers that turn result files into Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from benchmarks.harness.result_files import RESULTS, read_result
from segzoo.reporting.tables import markdown_table

NOT_MEASURED = "Not measured yet.\n"
# result files are records and keep the words of their commit; tables show the current ones
CURRENT_TERMS = {
    "l1 staged": "l1 iterative",
    "l1 taught": "l1 distilled",
    "l1 staged taught": "l1 iterative distilled",
    "scratch": "half width from scratch",
    "the start alone, 163 pictures, 1200 steps": "source model only, 163 images, 1200 steps",
    "transferred": "fine-tuned",
    "transferred, label smoothing 0.1": "fine-tuned, label smoothing 0.1",
    "transferred, mixup": "fine-tuned, mixup",
    "joint": "SyncBN",
    "of each rank": "per process",
    "command to the end of the first step, icnet_half on parts": "command to end of first step, icnet_half on parts",
}
SHORT_REMARKS = (
    (re.compile(r"the median is known to (\d+%) only, wanted (\d+%): .*"), r"median accurate to ±\1, target ±\2"),
    (re.compile(r"the times of the (\d+) calls before had not settled .*"), r"warm-up of \1 calls had not converged"),
    (re.compile(r"one call in ten takes a quarter longer than the median: .*"), "slowest tenth at least 25% above the median"),
    (re.compile(r"\w+ does not run in (\w+) here; it does in (.*)"), r"\1 not supported here, only \2"),
)


def current_term(recorded: str) -> str:
    """Return the current word for a name in a result file."""
    return CURRENT_TERMS.get(recorded, recorded)


def short_remark(recorded: str) -> str:
    """Shorten a recorded warning or error to fit a cell."""
    first = recorded.partition("\n")[0]
    for pattern, replacement in SHORT_REMARKS:
        if pattern.fullmatch(first):
            return pattern.sub(replacement, first)
    return first


def is_measured(name: str) -> bool:
    """Return whether a result file exists."""
    return (RESULTS / f"{name}.json").exists()


def result_table(name: str, columns: tuple[str, ...], cells: Callable[[dict[str, Any]], tuple[Any, ...]]) -> str:
    """Return the table of a result file's rows, or a note that there is none yet."""
    return markdown_table(columns, map(cells, read_result(name)["rows"])) if is_measured(name) else NOT_MEASURED


def format_ratio(row: dict[str, Any], digits: int = 2) -> str | None:
    """Format a ratio with its interval, if the row has one."""
    if "ratio" not in row:
        return None
    center, low, high = (f"{row[key]:.{digits}f}" for key in ("ratio", "low", "high"))
    return f"{center} [{low}, {high}]"


def format_percent(value: float, digits: int = 2) -> str:
    """Format a fraction as a percentage without the sign."""
    return f"{100 * value:.{digits}f}"


def format_millions(value: float) -> str:
    """Format a count in millions."""
    return f"{value / 1e6:.2f} M"
