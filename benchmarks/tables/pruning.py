"""Tables of pruning: the loss in mIoU and the gain in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.tables.formatting import (
    NOT_MEASURED,
    current_term,
    format_ratio,
    is_measured,
    measured_by,
    read_rows,
    result_table,
)
from segzoo.reporting.numbers import format_millions, format_percent
from segzoo.reporting.tables import markdown_table


def pruning() -> str:
    """One row per method on ICNet, with its seeds side by side."""
    if not is_measured("pruning_camvid"):
        return NOT_MEASURED
    content = read_rows("pruning_camvid")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in content["rows"]:
        groups.setdefault(row["what"], []).append(row)
    columns = (
        "variant",
        "mIoU % by seed",
        "95 % interval, first seed",
        "before fine-tuning %",
        "difference to full width",
        "difference to l1, same seed",
        "parameters",
        "GMACs",
        _runtime_names(content["times"]["full"]),
    )
    lines = []
    for name, rows in groups.items():
        first, times = rows[0], content["times"]["full" if name == "full width" else "half"]
        lines.append(
            (
                current_term(name),
                " / ".join(format_percent(row["miou"]) for row in rows),
                _interval(first),
                " / ".join(format_percent(row["miou_pruned"], 1) for row in rows) if first.get("miou_pruned") is not None else None,
                _differences(rows, "before"),
                _differences(rows, "l1"),
                format_millions(first["params"]),
                f"{first['gmacs']:.1f}",
                _milliseconds(times),
            )
        )
    return markdown_table(columns, lines) + measured_by("pruning_camvid")


def pruning_pspnet_largefov() -> str:
    """One row per stage of PSPNet and LargeFOV."""
    if not is_measured("pruning_others"):
        return NOT_MEASURED
    runs = read_rows("pruning_others")
    lines = []
    for name, run in runs.items():
        for row in run["report"]:
            times = _milliseconds(run["times"]["before" if row["what"] == "before" else "after"])
            size = format_millions(row["params"]), f"{row['gmacs']:.1f}"
            lines.append((name, row["what"], format_percent(row["miou"]), _interval(row), *size, times))
    runtimes = _runtime_names(next(iter(runs.values()))["times"]["before"])
    columns = ("run", "stage", "mIoU %", "95 % interval", "parameters", "GMACs", runtimes)
    return markdown_table(columns, lines) + measured_by("pruning_others")


def pruning_latency_target() -> str:
    """One row per runtime in which ICNet was pruned to a latency."""
    columns = (
        "runtime",
        "target ms",
        "unpruned ms in the search",
        "target ratio",
        "interleaved ratio [95 %]",
        "keep ratio",
        "parameters",
        "GMACs",
    )
    return result_table(
        "pruning_aim",
        columns,
        lambda row: (
            f"{row['runtime']} {row['precision']}",
            f"{row['target']['value']:.0f}",
            f"{row['trials'][-1]['ms']:.0f}",
            f"{row['target']['value'] / row['trials'][-1]['ms']:.2f}",
            format_ratio(row),
            f"{row['keep_ratio']:.2f}",
            format_millions(row["params"]),
            f"{row['gmacs']:.1f}",
        ),
    )


def _interval(row: dict[str, Any]) -> str:
    if row["miou_interval"] is None:  # too few images
        return ""
    low, high = row["miou_interval"]
    return f"{format_percent(low, 1)} to {format_percent(high, 1)}"


def _differences(rows: Sequence[dict[str, Any]], other: str) -> str | None:
    """Format the paired differences to another run with their intervals."""
    differences = [row["against"][other] for row in rows if other in row["against"]]
    return (
        " / ".join(f"{100 * d['difference']:+z.1f} [{100 * d['low']:+z.1f}, {100 * d['high']:+z.1f}]" for d in differences) or None
    )


def _runtime_names(rows: Sequence[dict[str, Any]]) -> str:
    return " / ".join(f"ms {row['runtime']} {row['precision']}" for row in rows)


def _milliseconds(rows: Sequence[dict[str, Any]]) -> str:
    return " / ".join(f"{row['ms_per_image']['p50']:.0f}" if "ms_per_image" in row else "-" for row in rows)
