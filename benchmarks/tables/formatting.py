"""Helpers that turn result files into Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import RESULTS, read_json, read_result
from segzoo.reporting.numbers import format_p_value, format_percent
from segzoo.reporting.tables import markdown_table
from segzoo.workflows.leaderboard.front import pareto_front

PAIR_COLUMNS = ("pair", "difference in mIoU", "95 % interval", "p", "verdict")
NOT_MEASURED = "To be measured.\n"
# result files keep the keys and names of their commit; this file maps them to the current ones
RECORDED = read_json(Path(__file__).with_name("recorded_terms.json"))
SHORT_REMARKS = (
    (re.compile(r"the median is known to (\d+%) only, wanted (\d+%): .*"), r"median accurate to ±\1, target ±\2"),
    (re.compile(r"the times of the (\d+) calls before had not settled .*"), r"warm-up of \1 calls had not converged"),
    (re.compile(r"one call in ten takes a quarter longer than the median: .*"), "slowest tenth at least 25% above the median"),
    (re.compile(r"\w+ does not run in (\w+) here; it does in (.*)"), r"\1 not supported here, only \2"),
    (re.compile(r"the median is known to ±(\d+%), target ±(\d+%): .*"), r"median accurate to ±\1, target ±\2"),
    (re.compile(r"the warm-up of (\d+) calls did not converge.*"), r"warm-up of \1 calls had not converged"),
    (re.compile(r"the slowest tenth of the calls takes at least 25% longer .*"), "slowest tenth at least 25% above the median"),
    (re.compile(r"\w+ does not support (\w+) here; choose one of (.*)"), r"\1 not supported here, only \2"),
)


def current_term(recorded: str) -> str:
    """Return the current word for a name in a result file."""
    return RECORDED["names"].get(recorded, recorded)


def read_rows(name: str) -> Any:
    """Return the rows of a result file under their current keys."""
    return _with_current_keys(read_result(name)["rows"])


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


def result_table(
    name: str,
    columns: tuple[str, ...],
    cells: Callable[[dict[str, Any]], tuple[Any, ...]],
    prepare: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = list,
) -> str:
    """Return the table of one or several result files, or a placeholder.

    Args:
        name: of the result file, or a pattern of several, such as ``profile_*``.
        columns: titles.
        cells: the cells of a row.
        prepare: changes the rows of a file before, such as ``with_front``.
    """
    names = sorted(path.stem for path in RESULTS.glob(f"{name}.json"))
    if not names:
        return NOT_MEASURED
    return markdown_table(columns, [cells(row) for each in names for row in prepare(read_rows(each))]) + measured_by(*names)


def measured_by(*names: str) -> str:
    """Say with which version and on which processor result files were measured."""
    contents = map(read_result, names)
    sources = dict.fromkeys(f"version {own['versions']['segzoo']} on {processor(own['machine'])}" for own in contents)
    return f"\nMeasured with {'; '.join(sources)}.\n"


def processor(machine: dict[str, Any]) -> str:
    """Name the processor of a machine, and the number of cores used."""
    name = re.sub(r"\(\w+\)| Processor", "", machine["cpu"])
    flags = [
        text
        for flag, text in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512_BF16"), ("avx2", "AVX2"))
        if flag in machine["cpu_flags"]
    ]
    instructions = f" with {flags[0]}" if flags else ""
    return f"{machine['threads']} CPU core{'s' if machine['threads'] > 1 else ''} ({name}{instructions})"


def with_front(rows: list[dict[str, Any]], cost: str) -> list[dict[str, Any]]:
    """Number the rows on the Pareto front of mIoU against a cost.

    Their ``front`` counts from the lowest cost, and is None for rows that another one beats in both.
    """
    numbers = {index: number for number, index in enumerate(pareto_front([(row[cost], row["miou"]) for row in rows]), 1)}
    return [row | {"front": numbers.get(index)} for index, row in enumerate(rows)]


def pair_cells(pair: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a pair of compared networks, see ``PAIR_COLUMNS``."""
    return f"{pair['first']} - {pair['second']}", *difference_cells(pair)


def difference_cells(pair: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a difference, see ``PAIR_COLUMNS``."""
    return (
        f"{100 * pair['difference']:+z.2f}",
        "[{:+z.2f}, {:+z.2f}]".format(*(100 * bound for bound in pair["interval"])),
        format_p_value(pair["p_value"]),
        pair["verdict"],
    )


def format_score(row: dict[str, Any]) -> str:
    """Format ``miou`` and ``miou_interval`` in percent."""
    return f"{format_percent(row['miou'], 1)} ({' to '.join(format_percent(end, 1) for end in row['miou_interval'])})"


def format_ratio(row: dict[str, Any], digits: int = 2) -> str | None:
    """Format a ratio with its interval, if the row has one."""
    if "ratio" not in row:
        return None
    center, low, high = (f"{row[key]:z.{digits}f}" for key in ("ratio", "low", "high"))
    return f"{center} [{low}, {high}]"


def _with_current_keys(recorded: Any) -> Any:
    if isinstance(recorded, dict):
        return {RECORDED["keys"].get(key, key): _with_current_keys(value) for key, value in recorded.items()}
    return [_with_current_keys(value) for value in recorded] if isinstance(recorded, list) else recorded
