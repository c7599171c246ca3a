"""Tables of networks trained under one protocol, and of recipes."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.result_files import read_result
from benchmarks.tables.formatting import NOT_MEASURED, PAIR_COLUMNS, is_measured, pair_cells, read_rows, result_table, with_front
from segzoo.reporting.numbers import format_millions, format_percent
from segzoo.reporting.tables import markdown_table

COLUMNS = (
    "model",
    "backbone",
    "mIoU %",
    "mIoU % of each seed",
    "parameters",
    "GMACs",
    "ms at 480x360",
    "ms at 2048x1024",
    "minutes",
    "front",
)
ABLATION_COLUMNS = ("idea", "network", "mIoU %", "mIoU % of each seed", *PAIR_COLUMNS[1:])
BACKBONES = {False: "resnet50 x0.5", True: "vgg16_bn"}


def history() -> str:
    """The networks of ``experiment=history``, and their differences."""
    return _tables("history")


def history_tenth() -> str:
    """The same after a tenth of the steps."""
    return _tables("history_tenth")


def ablations() -> str:
    """mIoU of networks that differ in one idea, by idea."""
    if not is_measured("ablations"):
        return NOT_MEASURED
    rows = [(group, row) for group, own in read_rows("ablations")["groups"].items() for row in own]
    return markdown_table(ABLATION_COLUMNS, [_ablation_cells(group, row) for group, row in rows])


def recipe_search() -> str:
    """mIoU of ICNet half on a held-out drive, by recipe."""
    return result_table(
        "recipe_search",
        ("recipe", "settings", "mIoU % of each seed", "mean mIoU %"),
        lambda r: (
            r["recipe"],
            ", ".join(f"`{override}`" for override in r["overrides"]),
            " / ".join(format_percent(score, 1) for score in r["miou"]),
            format_percent(r["mean"], 1),
        ),
    )


def _tables(name: str) -> str:
    if not is_measured(name):
        return NOT_MEASURED
    content, machine = read_rows(name), read_result(name)["machine"]
    rows = [{"name": key, "ms": _ms(row, 360), **row} for key, row in content["rows"].items()]
    ranked = sorted(with_front(rows, "ms"), key=lambda row: -row["miou"])
    first, threads = ranked[0], machine["threads"]
    return (
        f"{markdown_table(COLUMNS, map(_cells, ranked))}\n"
        f"{first['steps']} steps each, {content['images']} validation images; latency in the fastest runtime, in fp32 on {threads} CPU "
        f"core{'s' if threads > 1 else ''} ({machine['cpu']}).\n\n"
        f"{markdown_table(PAIR_COLUMNS, map(pair_cells, content['pairs']))}"
    )


def _ms(row: dict[str, Any], height: int) -> float:
    return min(time["ms_per_image"]["p50"] for time in row["times"] if time["hw"][0] == height)


def _ablation_cells(group: str, row: dict[str, Any]) -> tuple[Any, ...]:
    is_first, pair = row["pair"] is None, {"first": "", "second": "", **(row["pair"] or {})}
    return (
        group if is_first else "",
        row["network"],
        f"{format_percent(row['miou'], 1)} ({' to '.join(format_percent(end, 1) for end in row['miou_interval'])})",
        " / ".join(format_percent(score, 1) for score in row["seeds"]),
        *(("", "", "", "") if is_first else pair_cells(pair)[1:]),
    )


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["name"].removesuffix("_vgg"),
        BACKBONES[row["name"].endswith("_vgg")],
        f"{format_percent(row['miou'], 1)} ({' to '.join(format_percent(end, 1) for end in row['miou_interval'])})",
        " / ".join(format_percent(score, 1) for score in row["seeds"]),
        format_millions(row["params"]),
        f"{row['gmacs']:.1f}",
        f"{_ms(row, 360):.0f}",
        f"{_ms(row, 1024):.0f}",
        " / ".join(f"{minutes:.0f}" for minutes in row["minutes"]),
        row["front"],
    )
