"""Tables of networks trained under one protocol, and of recipes."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.kept_evaluations import KeptRun, kept_names, kept_run
from benchmarks.harness.result_files import read_result
from benchmarks.tables.formatting import (
    NOT_MEASURED,
    PAIR_COLUMNS,
    difference_cells,
    format_score,
    is_measured,
    measured_by,
    pair_cells,
    processor,
    read_rows,
    result_table,
    with_front,
)
from segzoo.reporting.numbers import format_millions, format_p_value, format_percent
from segzoo.reporting.tables import markdown_table
from segzoo.workflows.compare.comparison import NOT_RESOLVED

COLUMNS = (
    "model",
    "backbone",
    "mIoU %",
    "mIoU % of each seed",
    "parameters",
    "GMACs",
    "ms at 480x360",
    "ms at 1024x2048",
    "minutes",
    "front",
)
RUN_COLUMNS = ("model", "backbone", "seed", "mIoU %", "minutes", "threads", "scored by version")
HISTORY_PAIR_COLUMNS = (*PAIR_COLUMNS[:3], "p alone", *PAIR_COLUMNS[3:])
ABLATION_COLUMNS = ("idea", "network", "mIoU %", "mIoU % of each seed", *PAIR_COLUMNS[1:])
BACKBONES = {False: "resnet50 x0.5", True: "vgg16_bn"}


def history() -> str:
    """The networks of ``experiment=history``."""
    return _table("history")


def history_pairs() -> str:
    """Differences between the networks of ``experiment=history``."""
    return _pairs("history")


def history_tenth() -> str:
    """The same networks after a tenth of the steps."""
    return _table("history_tenth")


def history_tenth_pairs() -> str:
    """Differences between the networks after a tenth of the steps."""
    return _pairs("history_tenth")


def history_runs() -> str:
    """Runs of ``experiment=history`` whose evaluations are kept."""
    runs = [kept_run("history", name) for name in kept_names("history")]
    return markdown_table(RUN_COLUMNS, map(_run_cells, sorted(runs, key=lambda run: -run.evaluation.summary["miou"])))


def history_rows(name: str) -> list[dict[str, Any]]:
    """Return the networks of a history study for tables and figures.

    ``ms`` is the latency of a 480x360 image in the fastest runtime.
    """
    rows = read_rows(name)["rows"]
    return [
        {**row, "name": key.removesuffix("_vgg"), "is_vgg": key.endswith("_vgg"), "ms": _ms(row, 360)} for key, row in rows.items()
    ]


def ablations() -> str:
    """mIoU of networks that differ in one idea, by idea."""
    if not is_measured("ablations"):
        return NOT_MEASURED
    rows = [(group, row) for group, own in read_rows("ablations")["groups"].items() for row in own]
    return markdown_table(ABLATION_COLUMNS, [_ablation_cells(group, row) for group, row in rows]) + measured_by("ablations")


def recipe_search() -> str:
    """mIoU of ICNet half on a held-out drive, by recipe."""
    return _recipes("recipe_search")


def recipe_search_long() -> str:
    """mIoU after the longer search."""
    return _recipes("recipe_search_long")


def _recipes(name: str) -> str:
    return result_table(
        name,
        ("recipe", "settings", "mIoU % of each seed", "mean mIoU %"),
        lambda r: (
            r["recipe"],
            ", ".join(f"`{override}`" for override in r["overrides"]),
            " / ".join(format_percent(score, 1) for score in r["miou"]),
            format_percent(r["mean"], 1),
        ),
    )


def _table(name: str) -> str:
    if not is_measured(name):
        return NOT_MEASURED
    images, cores = read_rows(name)["images"], processor(read_result(name)["machine"])
    ranked = sorted(with_front(history_rows(name), "ms"), key=lambda row: -row["miou"])
    is_random = read_rows(name).get("timed_weights") == "random"
    weights = ", with random weights, whose ragged label maps take longer than those of trained ones" if is_random else ""
    steps, precision = ranked[0]["steps"], ranked[0]["times"][0]["precision"]
    return (
        f"{markdown_table(COLUMNS, map(_cells, ranked))}\n"
        f"{steps} steps each, {images} validation images; latency in the fastest runtime, in {precision} on {cores}{weights}.\n"
    )


def _pairs(name: str) -> str:
    return markdown_table(HISTORY_PAIR_COLUMNS, map(_pair_cells, read_rows(name)["pairs"])) if is_measured(name) else NOT_MEASURED


def _pair_cells(pair: dict[str, Any]) -> tuple[str, ...]:
    cells = pair_cells(pair)
    return *cells[:3], format_p_value(pair["single_p_value"]), *cells[3:]


def _run_cells(run: KeptRun) -> tuple[Any, ...]:
    row, training = run.evaluation.name.rpartition("-")[0], run.training
    return (
        row.removesuffix("_vgg"),
        BACKBONES[row.endswith("_vgg")],
        training["config"]["seed"],
        format_percent(run.evaluation.summary["miou"], 1),
        f"{training['result']['train_minutes']:.0f}",
        training["machine"]["threads"],
        run.evaluation.version,
    )


def _ms(row: dict[str, Any], height: int) -> float:
    return min(time["ms_per_image"]["p50"] for time in row["times"] if time["hw"][0] == height)


def _ablation_cells(group: str, row: dict[str, Any]) -> tuple[Any, ...]:
    pair = row["pair"]  # None for the first network of a group
    if pair and pair["verdict"] != NOT_RESOLVED:
        pair = pair | {"verdict": "better" if pair["difference"] > 0 else "worse"}
    return (
        "" if pair else group,
        row["network"],
        format_score(row),
        " / ".join(format_percent(score, 1) for score in row["seeds"]),
        *(difference_cells(pair) if pair else ("", "", "", "")),
    )


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["name"],
        BACKBONES[row["is_vgg"]],
        format_score(row),
        " / ".join(format_percent(score, 1) for score in row["seeds"]),
        format_millions(row["params"]),
        f"{row['gmacs']:.1f}",
        f"{_ms(row, 360):.0f}",
        f"{_ms(row, 1024):.0f}",
        " / ".join(f"{minutes:.0f}" for minutes in row["minutes"]),
        row["front"],
    )
