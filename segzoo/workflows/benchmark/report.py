"""Benchmark results as JSON, a Markdown table and an HTML page.

Latencies published by others are listed separately, as claims.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segzoo.io import write_json, write_text
from segzoo.reporting.blocks.bars import Bar, BarRow
from segzoo.reporting.html import render_template
from segzoo.reporting.numbers import format_number
from segzoo.reporting.tables import markdown_table
from segzoo.types import PlainDict, PlainMapping

COLUMNS = (
    "model",
    "backbone",
    "runtime",
    "precision",
    "device",
    "threads",
    "settings",
    "data",
    "size",
    "batch",
    "scope",
    "ms/image",
    "p90",
    "p99",
    "ms/batch",
    "images/s",
    "build s",
    "first call ms",
    "parameters",
    "GMACs",
    "agreement",
    "of peak",
    "peak memory MB",
    "remarks",
)
NAME_COLUMNS = ("runtime", "precision")
GROUP_COLUMNS = {
    "hw": "{0[0]}x{0[1]}",
    "scope": "{}",
    "backbone": "{}",
    "device": "{}",
    "threads": "{} threads",
    "varying_settings": "{}",
    "data": "{}",
}
# latencies published by others, for the network alone at 1024x2048: (model, milliseconds, source); the bench tool prints them, so they
# ship with the package
CLAIMS = (
    ("icnet_half (Caffe)", 33.0, "Titan X (Maxwell), Zhao et al., ECCV 2018, table 5"),
    ("PSPNet (Caffe, 713x713 windows)", 1288.0, "Titan X (Maxwell), the same table"),
    ("ICNet ResNet-18 (mmsegmentation)", 36.9, "V100, fp32, its README: 27.1 frames a second"),
    ("ICNet ResNet-50 (mmsegmentation)", 49.8, "V100, fp32, its README: 20.1 frames a second"),
    ("PSPNet ResNet-50 D8 (mmsegmentation)", 245.7, "V100, fp32, its README: 4.07 frames a second"),
    ("FCN ResNet-50 D8 (mmsegmentation)", 239.8, "V100, fp32, its README: 4.17 frames a second"),
)


def write_tables(folder: Path, rows: Sequence[PlainMapping]) -> str:
    """Write ``bench.json``, ``bench.md`` and ``report.html`` and return the Markdown."""
    columns, lines, shared = _table(rows)
    text = (f"{shared}\n\n" if shared else "") + markdown_table(columns, lines)
    if _has_published_size(rows):
        claims = "; ".join(f"{name} {ms:g} ms on {where}" for name, ms, where in CLAIMS)
        text += f"\nPublished by others for the network alone at this size, not measured here: {claims}.\n"
    write_text(folder / "bench.md", text)
    write_text(folder / "report.html", page(rows))
    write_json(folder / "bench.json", list(rows))  # last: it marks the directory as finished
    return text


def _has_published_size(rows: Sequence[PlainMapping]) -> bool:
    """Return true if published latencies can be compared with any row."""
    return any(row.get("hw") == [1024, 2048] for row in rows)


def _table(rows: Sequence[PlainMapping]) -> tuple[Sequence[str], list[list[object]], str]:
    """Arrange rows as columns, lines and a sentence of shared values.

    A single row is transposed to one line per value.
    """
    cells = [_cells(row) for row in _with_varying_settings(rows)]
    if len(cells) == 1:
        return ("name", "value"), [[name, cell] for name, cell in zip(COLUMNS, cells[0], strict=True) if cell is not None], ""
    shared = {column for column in range(len(COLUMNS) - 1) if len({str(line[column]) for line in cells}) == 1}
    values = ", ".join(f"{COLUMNS[c]} {cells[0][c]}" for c in sorted(shared) if cells and cells[0][c] is not None)
    varying = [column for column in range(len(COLUMNS)) if column not in shared]
    return (
        [COLUMNS[column] for column in varying],
        [[line[column] for column in varying] for line in cells],
        f"All rows: {values}." if values else "",
    )


def _with_varying_settings(rows: Sequence[PlainMapping]) -> list[PlainDict]:
    """Add the settings in which rows of one runtime differ.

    Each row gets ``varying_settings``, such as ``channels_last=True``, or None.
    """

    def values(runtime: object, key: str) -> set[str]:
        return {str(row.get("settings", {}).get(key)) for row in rows if row.get("runtime") == runtime}

    extended = []
    for row in rows:
        settings = [f"{key}={value}" for key, value in row.get("settings", {}).items() if len(values(row.get("runtime"), key)) > 1]
        extended.append({**row, "varying_settings": ", ".join(settings) or None})
    return extended


def _cells(row: PlainMapping) -> list[object]:
    """Format a row as one cell per column, None if unknown."""
    remarks = row.get("error") or "; ".join(row.get("warnings", []))
    size = "x".join(map(str, row["hw"])) if row.get("hw") else None
    names = [row.get(key) for key in ("model", "backbone", "runtime", "precision", "device", "threads")]
    first = [*names, row.get("varying_settings"), row.get("data"), size, row.get("batch"), row.get("scope")]
    if "ms_per_image" not in row:
        return [*first, *[None] * (len(COLUMNS) - len(first) - 1), remarks]
    return [
        *first,
        *(format_number(row["ms_per_image"][key]) for key in ("p50", "p90", "p99")),
        format_number(row["ms_per_batch"]["p50"]),
        f"{row['images_per_s']:.2f}",
        f"{row['build_s']:.1f}",
        f"{row['first_call_ms']:.0f}",
        _formatted(row["params"], "{:,}"),
        None if row["gmacs"] is None else format_number(row["gmacs"]),
        _formatted(row["agreement"], "{:.2%}"),
        _formatted(row["share_of_peak"], "{:.0%}" + (" (bf16's)" if row["precision"] == "int8" else "")),
        f"{row['peak_memory_mb']:.0f}",
        remarks or None,
    ]


def _formatted(number: float | None, form: str) -> str | None:
    """Format a number, None if it is unknown."""
    return None if number is None else form.format(number)


def page(rows: Sequence[PlainMapping]) -> str:
    """Standalone HTML page with a latency chart, the table and published results."""
    timed = [row for row in _with_varying_settings(rows) if "ms_per_image" in row]
    columns, lines, shared = _table(rows)
    machine = timed[0]["machine"] if timed else {}
    return render_template(
        "benchmark_report.html",
        machine=f"{machine.get('cpu', '')}, threads: {machine.get('threads', '?')}, GPU: {machine.get('gpu') or 'none'}",
        shared=shared,
        bars=_bars(timed),
        columns=columns,
        rows=lines,
        published=[(name, f"{ms:g}", where) for name, ms, where in CLAIMS] if _has_published_size(rows) else [],
    )


def _bars(rows: Sequence[PlainMapping]) -> list[BarRow]:
    """Bars of median and 90th percentile in milliseconds, one per row.

    A label names the settings by which the rows differ.
    """
    varying = [key for key in (*NAME_COLUMNS, *GROUP_COLUMNS) if len({str(row.get(key)) for row in rows}) > 1]
    slowest = max([row["ms_per_image"]["p90"] for row in rows], default=1.0)
    bars = []
    for row in rows:
        label = " ".join([row["model"], *(row[key] for key in NAME_COLUMNS if key in varying)])
        label += f" x{row['batch']}" if row["batch"] > 1 else ""
        label += "".join(
            f" {GROUP_COLUMNS[key].format(row[key])}" for key in varying if key in GROUP_COLUMNS and row.get(key) is not None
        )
        median, p90 = row["ms_per_image"]["p50"], row["ms_per_image"]["p90"]
        bar = Bar(0.0, median / slowest, median / slowest, p90 / slowest)
        bars.append(BarRow(label, bar, [f"{median:.1f}", f"{p90:.1f}"]))
    return bars
