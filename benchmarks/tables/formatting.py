"""How the tables of result files are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.harness.result_files import RESULTS, read_result
from segzoo.report import markdown_table


def kept(name: str, columns: tuple[str, ...], row: Callable[[dict[str, Any]], tuple[Any, ...]]) -> str:
    """A table of a result file's rows; what stands there until it is measured."""
    if not (RESULTS / f"{name}.json").exists():
        return "Not measured yet.\n"
    return markdown_table(columns, map(row, read_result(name)["rows"]))


def ratio(row: dict[str, Any], digits: int = 2) -> str | None:
    """A ratio with its interval, where there is one."""
    if "ratio" not in row:
        return None
    middle, low, high = (f"{row[key]:.{digits}f}" for key in ("ratio", "low", "high"))
    return f"{middle} [{low}, {high}]"
