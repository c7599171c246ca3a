"""Tables of a leaderboard, for the terminal and as CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from segzoo.io import csv_text
from segzoo.messages import format_override
from segzoo.reporting.numbers import format_count, format_interval, format_millions, format_number, format_percent
from segzoo.reporting.text_table import Column, text_table
from segzoo.types import PlainMapping
from segzoo.workflows.compare.compatibility import DATA_KEYS
from segzoo.workflows.leaderboard.verdicts import BEST

SHOWN_ROWS = 50  # rows of a table, and directories without a score, that the terminal shows; the files hold all
USUAL = (None, False, "none", [1.0], "original", "left out of the mean")  # settings of a protocol that need no mention
# columns by title, with the rank by which a narrow terminal leaves them out; see reporting.text_table
RANKS = {"run": 0, "mIoU %": 0, "95 % interval": 3, "vs. best": 2, "ms": 0, "runtime": 4, "front": 0}
RANKS |= {"parameters": 5, "model": 6, "backbone": 7}
CSV_KEYS = ("name", "folder", "model", "backbone", "seed", "checkpoint_sha256", "miou", "low", "high", "macc", "aacc", "fwiou")
CSV_KEYS += (
    "verdict",
    "parameters",
    "gmacs",
    "ms",
    "ms_p90",
    "runtime",
    "precision",
    "device",
    "machine",
    "size",
    "batch",
    "scope",
)
CSV_KEYS += ("front",)


def leaderboard_text(result: PlainMapping, width: int | None = None) -> str:
    """Format a leaderboard.

    Args:
        result: as ``rank_runs`` returns it.
        width: columns of the terminal; None shows everything.
    """
    lines = []
    for table in result["tables"]:
        columns = [Column(title, cells, RANKS[title]) for title, *cells in zip(*table_rows(table, SHOWN_ROWS), strict=True)]
        lines += [*_wrap(f"{table_title(table)}, {table_protocol(table)}", width), "", *text_table(columns, width)]
        if (more := len(table["rows"]) - SHOWN_ROWS) > 0:
            lines.append(f"... and {more} more in leaderboard.csv")
        lines += ["", *[line for note in table_notes(table, result["budget_ms"]) for line in _wrap(note, width)], ""]
    if not result["tables"]:
        lines += ["no run with a score was found", ""]
    if len(result["tables"]) > 1:
        lines += [*_wrap("Scores of different tables are not comparable: protocol, images, labels or classes differ.", width), ""]
    if result["unranked"]:
        lines.append("not ranked:")
        lines += [line for one in result["unranked"][:SHOWN_ROWS] for line in _wrap(f"{one['folder']}: {one['reason']}", width)]
        if (more := len(result["unranked"]) - SHOWN_ROWS) > 0:
            lines.append(f"... and {more} more in leaderboard.csv")
    return "\n".join(lines).rstrip()


def table_title(table: PlainMapping) -> str:
    """Name the data of a table."""
    return f"{table['data']} {table['split'] or ''}".strip() + f", {format_count(table['images'], 'image')}"


def table_protocol(table: PlainMapping) -> str:
    """Describe the protocol of a table by its id and unusual settings."""
    settings = [f"{key}={value}" for key, value in table["protocol"].items() if key not in DATA_KEYS and value not in USUAL]
    return f"labels {table['protocol']['ground_truth']}, protocol {table['protocol_id']}: {', '.join(settings)}"


def table_rows(table: PlainMapping, limit: int | None = None) -> list[list[str]]:
    """Format the rows of a table, the titles first, without empty columns."""
    rows = [_cells(row) for row in table["rows"][:limit]]
    shown = [
        index for index, title in enumerate(RANKS) if title in ("run", "mIoU %") or any(row[index] not in ("", "-") for row in rows)
    ]
    return [[line[index] for index in shown] for line in (list(RANKS), *rows)]


def _cells(row: PlainMapping) -> list[str]:
    time = row["time"]
    return [
        row["name"],
        format_percent(row["miou"]),
        format_interval(row["interval"]),
        row["verdict"] or "",
        "" if time is None else format_number(row["ms"]),
        "" if time is None else f"{time['runtime']} {time['precision']}",
        "" if row["front"] is None else str(row["front"]),
        "" if row["parameters"] is None else format_millions(row["parameters"]),
        row["model"] or "",
        row["backbone"] or "",
    ]


def table_notes(table: PlainMapping, budget_ms: float | None = None) -> list[str]:
    """Sentences on the times, the budget and the verdicts of a table."""
    timed = [row for row in table["rows"] if row["ms"] is not None]
    notes, untimed = [], len(table["rows"]) - len(timed)
    if table["setup"] is not None:
        notes.append(
            f"ms: {table['setup']['text']}. The front holds the runs that no other one beats in both mIoU and ms, the fastest first."
        )
    if untimed:
        size = [int(side) for side in table["setup"]["size"].split("x")] if table["setup"] else [480, 640]
        command = f"python tools/bench.py ckpt=<run> {format_override('hw', size)}"
        if (precision := table["protocol"].get("precision")) not in (None, "unknown"):
            command += f" precision={precision}"  # times in another one than scored are not used
        notes.append(
            f"Without a measured time, and so not on the front: {untimed} of {len(table['rows'])} runs. Measure it: {command}"
        )
    if budget_ms is not None:
        notes.append(_budget_note(timed, table["best_within_budget"], budget_ms))
    if any(row["verdict"] not in (None, BEST) for row in table["rows"]):
        units = "images" if table["group_by"] is None else "groups of images"
        notes.append(
            f"lower: certainly worse than the best run, by a paired bootstrap over {units} that holds for all runs of the table at once. "
            "not resolved: not certain. Differences with intervals: python tools/compare.py <run> <run>"
        )
    return notes + table["notes"]


def _budget_note(timed: Sequence[PlainMapping], name: str | None, budget_ms: float) -> str:
    if not timed:
        return f"No run has a measured time, so none is known to stay below {budget_ms:g} ms."
    if name is None:
        fastest = min(timed, key=lambda row: row["ms"])
        return f"No run stays below {budget_ms:g} ms. The fastest is {fastest['name']} with {format_number(fastest['ms'])} ms."
    best = next(row for row in timed if row["name"] == name)
    return f"Best below {budget_ms:g} ms: {name}, mIoU {format_percent(best['miou'])} %, {format_number(best['ms'])} ms."


def leaderboard_csv(result: PlainMapping) -> str:
    """Format all rows as CSV, those without a score last.

    Scores are fractions.
    """
    lines: list[list[object]] = [["data", "split", "protocol_id", *CSV_KEYS, "reason"]]
    for table in result["tables"]:
        for row in table["rows"]:
            low, high = row["interval"] or (None, None)
            values = {
                **row,
                **(row["time"] or {}),
                "parameters": row["parameters"],
                "gmacs": row["gmacs"],
                "low": low,
                "high": high,
            }
            lines.append([table["data"], table["split"], table["protocol_id"], *(values.get(key) for key in CSV_KEYS), None])
    empty = [None] * (len(CSV_KEYS) - 1)
    lines += [[None, None, None, None, one["folder"], *empty[1:], one["reason"]] for one in result["unranked"]]
    return csv_text(lines)


def _wrap(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width, 20), subsequent_indent="  ")
