"""Files of a leaderboard, among them a page with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.io import write_json, write_text
from segzoo.reporting.blocks.plots import DATA, MISSING, MUTED, SECOND, Plot, can_plot, svg_plot
from segzoo.reporting.html import render_template
from segzoo.reporting.numbers import format_number, format_percent
from segzoo.types import PlainDict, PlainMapping
from segzoo.workflows.leaderboard.tables import leaderboard_csv, table_notes, table_protocol, table_rows, table_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CAPTION = (
    "Each point is a run: to the left is faster, to the top is better. The numbered runs on the line form the Pareto front: any other one is "
    "slower, less accurate, or both. Vertical lines are 95 % intervals."
)


def write_leaderboard(folder: Path, result: PlainDict) -> None:
    """Write ``leaderboard.csv``, ``report.html`` and ``leaderboard.json``.

    The JSON file comes last, as it marks the directory as finished.
    """
    write_text(folder / "leaderboard.csv", leaderboard_csv(result))
    write_text(folder / "report.html", leaderboard_page(result))
    write_json(folder / "leaderboard.json", result)


def leaderboard_page(result: PlainMapping) -> str:
    """Page with the tables, the fronts, and the directories without a score."""
    budget = result["budget_ms"]
    filters = [f"{kind}.{name}={pattern}" for kind in ("where", "times") for name, pattern in result[kind].items()]
    tables = [
        {
            "id": f"table-{number}",
            "title": table_title(table),
            "protocol": table_protocol(table),
            "rows": table_rows(table),
            "notes": table_notes(table, budget),
            "budgets": _budgets(table["rows"]),
            "plots": _plots(table, budget),
        }
        for number, table in enumerate(result["tables"], 1)
    ]
    return render_template(
        "leaderboard.html",
        runs=result["runs"],
        sort=result["sort"],
        filters=filters,
        tables=tables,
        unranked=[(one["folder"], one["reason"]) for one in result["unranked"]],
        missing="" if can_plot() else MISSING,
    )


def _budgets(rows: Sequence[PlainMapping]) -> list[tuple[str, str, str]]:
    """List the best run for each budget.

    Returns:
        From which budget on it is the best one, its name and mIoU.
    """
    front = sorted((row for row in rows if row["front"] is not None), key=lambda row: row["front"])
    return [(f"from {format_number(row['ms'])} ms", row["name"], format_percent(row["miou"])) for row in front]


def _plots(table: PlainMapping, budget_ms: float | None) -> list[Plot]:
    timed = [row for row in table["rows"] if row["ms"] is not None]
    if not timed or not can_plot():
        return []
    title = f"mIoU and milliseconds per image, protocol {table['protocol_id']}"
    caption = f"{CAPTION} ms: {table['setup']['text']}."
    return [svg_plot(title, caption, lambda axes: _draw_front(axes, timed, budget_ms), (7.5, 4.2))]


def _draw_front(axes: Axes, rows: Sequence[PlainMapping], budget_ms: float | None) -> None:
    front = sorted((row for row in rows if row["front"] is not None), key=lambda row: row["front"])
    others = [row for row in rows if row["front"] is None]
    for group, color in ((others, MUTED), (front, DATA)):
        ms, miou = [row["ms"] for row in group], [100 * row["miou"] for row in group]
        bounded = [row for row in group if row["interval"]]
        low, high = ([100 * row["interval"][side] for row in bounded] for side in (0, 1))
        axes.vlines([row["ms"] for row in bounded], low, high, color=color, linewidth=1, alpha=0.6)
        axes.plot(ms, miou, "o", color=color, markersize=5)
    times = [row["ms"] for row in rows]
    if max(times) > 10 * min(times):
        axes.set_xscale("log")
    axes.step([row["ms"] for row in front], [100 * row["miou"] for row in front], where="post", color=DATA, linewidth=1.2)
    for row in front:
        axes.annotate(
            str(row["front"]), (row["ms"], 100 * row["miou"]), xytext=(5, 5), textcoords="offset points", fontweight="bold"
        )
    if budget_ms is not None:
        axes.axvline(budget_ms, color=SECOND, linestyle="--", linewidth=1.2, label=f"budget of {budget_ms:g} ms")
        axes.legend()
    axes.set(xlabel="ms per image", ylabel="mIoU, %")
