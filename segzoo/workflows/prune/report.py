"""Markdown and HTML report of a pruning run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.io import write_text
from segzoo.reporting.blocks.bars import BarRow, share_bar
from segzoo.reporting.blocks.matrices import Cell, Matrix
from segzoo.reporting.html import render_template
from segzoo.reporting.tables import markdown_table
from segzoo.types import PlainDict, PlainMapping
from segzoo.workflows.prune.stages import Size
from segzoo.workflows.report.page import write_page

if TYPE_CHECKING:
    from segzoo.pruning.sensitivity import SensitivityCurve

SPEEDUP_THRESHOLD = 0.97  # a network that takes more than this fraction of the time before is reported as not faster


def write_report(
    folder: Path,
    rows: Sequence[PlainMapping],
    times: Mapping[str, Sequence[PlainMapping]],
    curves: Sequence[SensitivityCurve],
    training: Callable[[], PlainDict] | None = None,
    *,
    report: bool = True,
    bench_hw: Size = (1024, 2048),
) -> str:
    """Write ``report.md`` and ``report.html``.

    Args:
        folder: the run directory.
        rows: ``what``, ``miou``, ``miou_interval``, ``params`` and ``gmacs`` of each stage.
        times: benchmark rows of the networks ``before`` and ``after`` pruning, from ``benchmark_before_after``.
        curves: sensitivity of the loss to each layer's channels; empty if it was not measured.
        training: collects what the page shows of the fine-tuning; None shows nothing.
        report: write the page, not the Markdown alone.
        bench_hw: height and width for which operations are counted.

    Returns:
        The Markdown.
    """
    columns, lines = _table(rows, times, bench_hw)
    verdicts = _target_lines(folder) + _speedup_lines(times)
    text = markdown_table(columns, lines) + "".join(f"\n{line}\n" for line in verdicts)
    if curves:
        ratios = sorted(curves[0].losses, reverse=True)
        text += "\nLoss with channels removed from one layer at a time, by the fraction that the layer keeps:\n\n"
        losses = [
            (", ".join(curve.layers), curve.channels, *(f"{curve.losses[ratio]:.4f}" for ratio in ratios)) for curve in curves
        ]
        text += markdown_table(("layers", "channels", *(f"{ratio:.0%}" for ratio in ratios)), losses)
    write_text(folder / "report.md", text)

    def render() -> str:
        return render_template(
            "pruning_report.html",
            title=f"Pruning report, {folder.absolute().name}",
            columns=["", "", *columns[1:]],
            rows=_bar_rows(rows, lines),
            verdicts=verdicts,
            sensitivity=_sensitivity_table(curves),
            run=None if training is None else training(),
        )

    write_page(folder, render if report else None)
    return text


def _bar_rows(rows: Sequence[PlainMapping], lines: Sequence[Sequence[str | None]]) -> list[BarRow]:
    """Lines of the table, with a bar of the mIoU."""
    return [
        BarRow(row["what"], share_bar(row["miou"], row["miou_interval"]), line[1:]) for row, line in zip(rows, lines, strict=True)
    ]


def _table(
    rows: Sequence[PlainMapping], times: Mapping[str, Sequence[PlainMapping]], hw: tuple[int, int]
) -> tuple[list[str], list[list[str | None]]]:
    """Columns and one line per stage.

    Only the networks before pruning and after fine-tuning are timed. A pruned network of the same size as the fine-tuned one shares its
    time; any other has empty cells.
    """
    columns = ["", "mIoU %", "95 % interval", "parameters", f"GMACs at {hw[0]}x{hw[1]}"]
    for timed in times.get("before", ()):
        columns += [f"ms {timed['runtime']} {timed.get('precision', '')}".strip(), "MB"]
    lines = []
    for row in rows:
        interval = (
            None if row["miou_interval"] is None else "{:.1f} to {:.1f}".format(*(100 * bound for bound in row["miou_interval"]))
        )
        line = [row["what"], f"{100 * row['miou']:.2f}", interval, f"{row['params']:,}", f"{row['gmacs']:.2f}"]
        side = "before" if row["what"] == "before" else "after"
        for timed in times.get(side, ()):
            applies = "ms_per_image" in timed and (side == "before" or row["params"] == rows[-1]["params"])
            line += [f"{timed['ms_per_image']['p50']:.1f}", f"{timed['peak_memory_mb']:.0f}"] if applies else [None, None]
        lines.append(line)
    return columns, lines


def _target_lines(folder: Path) -> list[str]:
    """The result of the target search, if there was one."""
    path = folder / "target_search.json"
    if not path.exists():
        return []
    search = json.loads(path.read_text(encoding="utf-8"))
    target, ratio = search["target"], search["keep_ratio"]
    kind, size = target["kind"], "x".join(map(str, target["hw"]))
    reached = next(trial[kind] for trial in search["trials"] if trial["keep_ratio"] == ratio)
    setting = f"{target['runtime']} {target['precision']} at {size}" if kind == "ms" else f"at {size}"
    return [f"pruner.target_{kind}={target['value']:g}, {setting}: reached {reached:g} with {ratio:.1%} of the channels kept."]


def _speedup_lines(times: Mapping[str, Sequence[PlainMapping]]) -> list[str]:
    """One line per runtime: its speedup, or why it was not timed."""
    lines = []
    for before, after in zip(times.get("before", ()), times.get("after", ()), strict=True):
        if error := before.get("error") or after.get("error"):
            lines.append(f"{before['runtime']}: not timed: {' '.join(error.split())}")
            continue
        name = f"{before['runtime']} {before['precision']} at {before['hw'][0]}x{before['hw'][1]}"
        ms_before, ms_after = before["ms_per_image"]["p50"], after["ms_per_image"]["p50"]
        if ms_after > SPEEDUP_THRESHOLD * ms_before:
            lines.append(f"{name}: NOT faster, {ms_before:.1f} ms before and {ms_after:.1f} ms after.")
        else:
            lines.append(
                f"{name}: {ms_before / ms_after:.2f} times as fast, {ms_before:.1f} ms before and {ms_after:.1f} ms after."
            )
    return lines


def _sensitivity_table(curves: Sequence[SensitivityCurve]) -> Matrix | None:
    """Shade the rise of the loss by layer and ratio kept.

    The largest rise of any layer is the darkest. A loss that falls counts as no rise. None without curves.
    """
    if not curves:
        return None
    ratios = sorted((ratio for ratio in curves[0].losses if ratio < 1), reverse=True)
    rises = [[max(0.0, curve.losses[ratio] - curve.losses[1.0]) for ratio in ratios] for curve in curves]
    largest = max(max(row) for row in rises) or 1.0
    rows = []
    for curve, row in zip(curves, rises, strict=True):
        cells = [
            Cell(rise / largest, f"{rise:.3f}", f"{ratio:.0%} kept: +{rise:.4f}") for ratio, rise in zip(ratios, row, strict=True)
        ]
        rows.append((f"{', '.join(curve.layers)} ({curve.channels})", cells))
    return Matrix("layers \\ channels kept", [f"{ratio:.0%}" for ratio in ratios], rows)
