"""The rows of a bench as JSON, as a Markdown table, and as a page with a plot; published figures beside them, marked as claims."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segzoo.io import write_json, write_text
from segzoo.reporting.tables import markdown_table

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
GROUP_COLUMNS = {
    "hw": "{0[0]}x{0[1]}",
    "scope": "{}",
    "backbone": "{}",
    "device": "{}",
    "threads": "{} threads",
    "said": "{}",
    "data": "{}",
}
# what others have published for the network alone at 1024x2048: (model, milliseconds, where)
CLAIMS = (
    ("icnet_half (Caffe)", 33.0, "Titan X (Maxwell), Zhao et al., ECCV 2018, table 5"),
    ("PSPNet (Caffe, 713x713 windows)", 1288.0, "Titan X (Maxwell), the same table"),
    ("ICNet ResNet-18 (mmsegmentation)", 36.9, "V100, fp32, its README: 27.1 frames a second"),
    ("ICNet ResNet-50 (mmsegmentation)", 49.8, "V100, fp32, its README: 20.1 frames a second"),
    ("PSPNet ResNet-50 D8 (mmsegmentation)", 245.7, "V100, fp32, its README: 4.07 frames a second"),
    ("FCN ResNet-50 D8 (mmsegmentation)", 239.8, "V100, fp32, its README: 4.17 frames a second"),
)


def write_tables(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes ``bench.json``, ``bench.md`` and ``bench.html`` into a folder; returns the Markdown."""
    columns, lines, same = _table(rows)
    text = (f"{same}\n\n" if same else "") + markdown_table(columns, [[_inline(str(c or "")) for c in line] for line in lines])
    if any(row.get("hw") == [1024, 2048] for row in rows):
        claimed = "; ".join(f"{name} {ms:g} ms on {where}" for name, ms, where in CLAIMS)
        text += f"\nWhat others have published, not measured here, the network alone at this size: {claimed}.\n"
    write_json(folder / "bench.json", list(rows))
    write_text(folder / "bench.md", text)
    write_text(folder / "bench.html", page(rows))
    return text


def _table(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[list[Any]], str]:
    """Columns, lines, and in a sentence what is the same of every row; a single row stands upright."""
    cells = [_cells(row) for row in _format_cell(rows)]
    if len(cells) == 1:
        return ("what", "found"), [[name, cell] for name, cell in zip(COLUMNS, cells[0], strict=True) if cell is not None], ""
    same = {place for place in range(len(COLUMNS) - 1) if len({str(line[place]) for line in cells}) == 1}
    told = ", ".join(f"{COLUMNS[place]} {cells[0][place]}" for place in sorted(same) if cells and cells[0][place] is not None)
    rest = [place for place in range(len(COLUMNS)) if place not in same]
    return (
        [COLUMNS[place] for place in rest],
        [[line[place] for place in rest] for line in cells],
        f"All rows: {told}." if told else "",
    )


def _format_cell(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with those settings of their runtimes in words by which rows of one runtime differ."""

    def of_runtime(row: Mapping[str, Any], key: str) -> set[str]:
        return {str(other.get("settings", {}).get(key)) for other in rows if other.get("runtime") == row.get("runtime")}

    told = []
    for row in rows:
        words = [f"{key}={value}" for key, value in row.get("settings", {}).items() if len(of_runtime(row, key)) > 1]
        told.append({**row, "said": ", ".join(words) or None})
    return told


def _cells(row: Mapping[str, Any]) -> list[Any]:
    remarks = row.get("error") or "; ".join(row.get("warnings", []))
    size = "x".join(map(str, row["hw"])) if row.get("hw") else None
    names = [row.get(key) for key in ("model", "backbone", "runtime", "precision", "device", "threads")]
    first = [*names, row.get("said"), row.get("data"), size, row.get("batch"), row.get("scope")]
    if "ms_per_image" not in row:
        return [*first, *[None] * (len(COLUMNS) - len(first) - 1), remarks]
    return [
        *first,
        f"{row['ms_per_image']['p50']:.1f}",
        f"{row['ms_per_image']['p90']:.1f}",
        f"{row['ms_per_image']['p99']:.1f}",
        f"{row['ms_per_batch']['p50']:.1f}",
        f"{row['images_per_s']:.2f}",
        f"{row['build_s']:.1f}",
        f"{row['first_call_ms']:.0f}",
        f"{row['params']:,}",
        f"{row['gmacs']:.1f}",
        f"{row['agreement']:.2%}",
        f"{row['share_of_peak']:.0%}" + (" (bf16's)" if row["precision"] == "int8" else ""),
        f"{row['peak_memory_mb']:.0f}",
        remarks or None,
    ]


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """A page by itself: a bar a row, the table, the machine, and what others claim."""
    able = [row for row in _format_cell(rows) if "ms_per_image" in row]
    columns, lines, same = _table(rows)
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell or ''))}</td>" for cell in line) + "</tr>" for line in lines)
    claims = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{ms:g}</td><td>{html.escape(where)}</td></tr>" for name, ms, where in CLAIMS
    )
    machine = able[0]["machine"] if able else {}
    facts = f"{machine.get('cpu', '')}, threads: {machine.get('threads', '?')}, GPU: {machine.get('gpu') or 'none'}"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>segzoo bench</title><style>"
        "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:112rem;padding:0 1rem;color:#1c2430}"
        "table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border-bottom:1px solid #d7dce3;padding:.3rem .6rem;"
        "text-align:left}th{background:#f2f4f7}svg{width:100%;height:auto}.wide{overflow-x:auto}.wide td:last-child{min-width:18rem}"
        ".wide td{white-space:nowrap}.wide td:last-child{white-space:normal}svg{max-width:60rem}</style>"
        f"<h1>Milliseconds an image</h1><p>{html.escape(facts)}. Median and, as the thin line, the 90th percentile. {html.escape(same)}</p>{_bars(able)}"
        f"<div class=wide><table><tr>{head}</tr>{body}</table></div><h2>What others have published</h2><p>Claims, not measured here; "
        "1024x2048 pixels, the network alone.</p><table><tr><th>model</th><th>ms/image</th><th>on</th></tr>"
        f"{claims}</table></html>\n"
    )


def _bars(rows: Sequence[Mapping[str, Any]]) -> str:
    """One horizontal bar a row, as SVG."""
    if not rows:
        return ""
    longest = max(row["ms_per_image"]["p90"] for row in rows)
    several = {key for key in GROUP_COLUMNS if len({str(row.get(key)) for row in rows}) > 1}
    drawn = []
    for number, row in enumerate(rows):
        y = 26 * number
        middle, late = (560 * row["ms_per_image"][p] / longest for p in ("p50", "p90"))
        name = f"{row['model']} {row['runtime']} {row['precision']}" + (f" x{row['batch']}" if row["batch"] > 1 else "")
        name += "".join(
            f" {GROUP_COLUMNS[key].format(row[key])}" for key in GROUP_COLUMNS if key in several and row.get(key) is not None
        )
        drawn.append(
            f'<text x="335" y="{y + 17}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="345" y="{y + 5}" width="{middle:.1f}" height="16" fill="#3b6fb6"/>'
            f'<line x1="345" x2="{345 + late:.1f}" y1="{y + 13}" y2="{y + 13}" stroke="#1c2430"/>'
            f'<text x="{352 + max(middle, late):.1f}" y="{y + 17}">{row["ms_per_image"]["p50"]:.1f}</text>'
        )
    return f'<svg viewBox="0 0 980 {26 * len(rows) + 8}" font-size="12" font-family="system-ui,sans-serif">{"".join(drawn)}</svg>'
