"""Markdown tables, and the summary of a sweep. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from segzoo.io import write_json, write_text
from segzoo.types import PlainMapping


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table, with an empty cell for None."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines) + "\n"


def summarize_sweep(folder: Path) -> str:
    """Collect the results of a sweep in ``table.md`` and ``table.json``.

    Every ``<job>/result.json`` below ``folder`` becomes a row, in the order of the jobs. The row of a failed job shows its error in one
    line.

    Returns:
        The Markdown.
    """
    results = (json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/result.json"))
    rows = sorted(results, key=lambda row: row.get("job", 0))
    write_json(folder / "table.json", rows)
    table = markdown_table(
        ("job", "model", "backbone", "data", "overrides", "mIoU", "params", "receptive field", "train min", "error"),
        map(_cells, rows),
    )
    write_text(folder / "table.md", table)
    return table


def _cells(row: PlainMapping) -> list[object]:
    groups = ("model", "backbone", "data")
    overrides = [override for override in row.get("overrides", []) if override.split("=")[0] not in groups]
    miou, params = row.get("miou"), row.get("params")
    error = (row.get("error") or "").replace("|", "\\|") or None
    return [
        row.get("job"),
        *(row.get(group) for group in groups),
        " ".join(overrides) or None,
        None if miou is None else f"{miou:.4f}",
        None if params is None else f"{params:,}",
        row.get("receptive_field"),
        row.get("train_minutes"),
        error,
    ]
