"""The report of a pruning run: table, verdicts and page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.io import write_text
from segzoo.reporting.tables import markdown_table

if TYPE_CHECKING:
    from segzoo.pruning.sensitivity import SensitivityCurve


SPEEDUP_THRESHOLD = 0.97  # of the time before; what is above that is called not faster


def write_report(
    folder: Path, rows: Sequence[Mapping[str, Any]], times: Mapping[str, Sequence[Any]], curves: Sequence[SensitivityCurve]
) -> str:
    """Writes ``report.md`` and ``report.html``; returns the Markdown.

    Args:
        folder: the run's.
        rows: ``what``, ``miou``, ``miou_interval``, ``params`` and ``gmacs``, stage by stage.
        times: of ``before`` and ``after``, as ``timed_rows`` gives them.
        curves: what each layer's channels do to the loss.
    """
    columns, lines = _table(rows, times)
    verdicts = _target(folder) + _speedup_lines(times)
    text = markdown_table(columns, lines) + "".join(f"\n{line}\n" for line in verdicts)
    if curves:
        shares = sorted(curves[0].losses, reverse=True)
        text += "\nThe loss with some of one layer's channels, and all of the others':\n\n"
        losses = [
            (", ".join(curve.layers), curve.channels, *(f"{curve.losses[share]:.4f}" for share in shares)) for curve in curves
        ]
        text += markdown_table(("layers", "channels", *(f"{share:.0%}" for share in shares)), losses)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", page(columns, lines, verdicts, curves))
    return text


def _table(rows: Sequence[Mapping[str, Any]], times: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[list[str | None]]]:
    """The stages as lines; a pruned network has the time of the fine-tuned one if they are of one size."""
    columns = ["", "mIoU %", "95 %", "parameters", "GMACs"]
    for row in times.get("before", ()):
        columns += [f"ms {row['runtime']} {row.get('precision', '')}".strip(), "MB"]
    lines = []
    for row in rows:
        low, high = row["miou_interval"]
        line = [row["what"], f"{100 * row['miou']:.2f}", f"{100 * low:.1f} to {100 * high:.1f}", f"{row['params']:,}"]
        line.append(f"{row['gmacs']:.2f}")
        whose = "before" if row["what"] == "before" else "after"
        for timed in times.get(whose, ()):
            able = "ms_per_image" in timed and (whose == "before" or row["params"] == rows[-1]["params"])
            line += [f"{timed['ms_per_image']['p50']:.1f}", f"{timed['peak_memory_mb']:.0f}"] if able else [None, None]
        lines.append(line)
    return columns, lines


def _target(folder: Path) -> list[str]:
    """A sentence on what was asked of the pruner and what the share it found came to; none where the share itself was asked for."""
    if not (folder / "target_search.json").exists():
        return []
    aim = json.loads((folder / "target_search.json").read_text(encoding="utf-8"))
    target = aim["target"]
    kind, size = target["kind"], "x".join(map(str, target["hw"]))
    came = next(row[kind] for row in aim["tried"] if row["share"] == aim["share"])
    where = f"{target['runtime']} {target['precision']} at {size}" if kind == "ms" else f"at {size}"
    return [f"pruner.target_{kind}={target['value']:g}, {where}: {aim['share']:.1%} of the channels stay, which came to {came:g}."]


def _speedup_lines(times: Mapping[str, Sequence[Any]]) -> list[str]:
    """A sentence a runtime: how much faster, or that it is not, or why it was not timed."""
    said = []
    for before, after in zip(times.get("before", ()), times.get("after", ()), strict=True):
        if unable := before.get("error") or after.get("error"):
            said.append(f"{before['runtime']}: not timed: {' '.join(unable.split())}")
            continue
        name = f"{before['runtime']} {before['precision']} at {before['hw'][0]}x{before['hw'][1]}"
        first, last = before["ms_per_image"]["p50"], after["ms_per_image"]["p50"]
        if last > SPEEDUP_THRESHOLD * first:
            said.append(f"{name}: NOT faster, {first:.1f} ms before and {last:.1f} ms after.")
        else:
            said.append(f"{name}: {first / last:.2f} times as fast, {first:.1f} ms before and {last:.1f} ms after.")
    return said


def page(
    columns: Sequence[str], lines: Sequence[Sequence[Any]], verdicts: Sequence[str], curves: Sequence[SensitivityCurve]
) -> str:
    """The report as a page by itself, with a curve a layer."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell or ''))}</td>" for cell in line) + "</tr>" for line in lines)
    said = "".join(f"<p>{html.escape(line)}</p>" for line in verdicts)
    drawn = "".join(_curve_plot(curve, max(max(c.losses.values()) - c.losses[1.0] for c in curves)) for curve in curves)
    layers = f"<h2>Layer by layer</h2><p>Rise of the loss with 75, 50 and 25 % of one layer's channels.</p><div>{drawn}</div>"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>segzoo pruning</title><style>"
        "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1c2430}"
        "table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border-bottom:1px solid #d7dce3;padding:.3rem .6rem;"
        "text-align:left;white-space:nowrap}th{background:#f2f4f7}figure{display:inline-block;margin:.4rem;width:150px}"
        "figcaption{font-size:11px;overflow-wrap:anywhere;line-height:1.25;height:2.6em;overflow:hidden}</style>"
        f"<h1>What pruning came to</h1><table><tr>{head}</tr>{body}</table>{said}{layers if curves else ''}</html>\n"
    )


def _curve_plot(curve: SensitivityCurve, tallest: float) -> str:
    """One layer's curve as an image of its own, all of one scale; further left means fewer channels."""
    name = ", ".join(curve.layers)
    points = [
        (10 + 130 * share, 64 - 58 * max(0.0, loss - curve.losses[1.0]) / (tallest or 1.0))
        for share, loss in sorted(curve.losses.items())
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="#3b6fb6"/>' for x, y in points)
    return (
        f'<figure><svg viewBox="0 0 150 70" width="150" height="70"><title>{html.escape(name)}</title>'
        f'<line x1="10" x2="140" y1="64" y2="64" stroke="#d7dce3"/>'
        f'<polyline points="{path}" fill="none" stroke="#3b6fb6" stroke-width="1.5"/>{dots}</svg>'
        f"<figcaption>{html.escape(name)} ({curve.channels})</figcaption></figure>"
    )
