"""Markdown tables, and the summary of a sweep. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from segzoo.io import write_json, write_text
from segzoo.types import PlainMapping

GROUPS = ("model", "backbone", "data")
COLUMNS = ("job", *GROUPS, "overrides", "mIoU", "protocol", "params", "receptive field", "train min", "error")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table, with an empty cell for None.

    Text in a cell is put on one line, and its vertical bars are escaped.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines) + "\n"


def _markdown_cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).split()).replace("|", "\\|")


def summarize_sweep(folder: Path) -> str:
    """Collect the results of a sweep in ``table.md`` and ``table.json``.

    Every ``<job>/result.json`` below ``folder`` becomes a row: in ``table.json`` in the order of the jobs, in ``table.md`` from the highest
    to the lowest mIoU. Scores of different protocols are not ranked against each other: each protocol has its own best row. The row of a
    failed job comes last and shows its error in one line.

    Returns:
        The Markdown.
    """
    results = (json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/result.json"))
    rows = sorted(results, key=lambda row: row.get("job", 0))
    write_json(folder / "table.json", rows)
    table = _sweep_table(rows)
    write_text(folder / "table.md", table)
    return table


def _sweep_table(rows: Sequence[PlainMapping]) -> str:
    """Format the rows of a sweep, without empty columns."""
    overrides = [[word for word in row.get("overrides", []) if word.split("=")[0] not in GROUPS] for row in rows]
    shared = set.intersection(*map(set, overrides)) if len(rows) > 1 else set()
    protocols = list(dict.fromkeys(row.get("protocol_id") for row in rows if row.get("miou") is not None))

    def rank(index: int) -> tuple[int, float, int]:
        scored = rows[index].get("miou") is not None
        return (
            (protocols.index(rows[index].get("protocol_id")), -rows[index]["miou"], index) if scored else (len(protocols), 0, index)
        )

    lines, ranked = [], set()
    for index in sorted(range(len(rows)), key=rank):
        row, protocol = rows[index], rows[index].get("protocol_id")
        is_best = row.get("miou") is not None and protocol not in ranked
        ranked |= {protocol} if is_best else set()
        lines.append(_cells(row, [word for word in overrides[index] if word not in shared], is_best))
    filled = [column for column in range(len(COLUMNS)) if any(line[column] is not None for line in lines)]
    table = markdown_table([COLUMNS[column] for column in filled], [[line[column] for column in filled] for line in lines])
    return table + (
        "\nEach protocol has its own best row, since scores of different protocols are not comparable.\n"
        if len(protocols) > 1
        else ""
    )


def _cells(row: PlainMapping, overrides: Sequence[str], is_best: bool) -> list[object]:
    miou, params = row.get("miou"), row.get("params")
    return [
        row.get("job"),
        *(row.get(group) for group in GROUPS),
        " ".join(overrides) or None,
        None if miou is None else f"{miou:.4f}" + (" (best)" if is_best else ""),
        row.get("protocol_id"),
        None if params is None else f"{params:,}",
        row.get("receptive_field"),
        row.get("train_minutes"),
        row.get("error"),
    ]
