"""The tables of pruning: what channels cost in mIoU and bring in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.harness.result_files import RESULTS, read_result
from benchmarks.tables.formatting import kept, ratio
from segzoo.report import markdown_table


def pruning() -> str:
    """ICNet at half its channels, in every way; seeds together."""
    if not (RESULTS / "pruning_camvid.json").exists():
        return "Not measured yet.\n"
    found = read_result("pruning_camvid")["rows"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault(row["what"], []).append(row)
    times = {width: " / ".join(_ms(timed) for timed in several) for width, several in found["times"].items()}
    lines = []
    for name, rows in groups.items():
        first, scores = rows[0], [100 * row["miou"] for row in rows]
        low, high = first["miou_interval"]
        lines.append(
            (
                name,
                " / ".join(f"{score:.2f}" for score in scores),
                f"{100 * low:.1f} to {100 * high:.1f}",
                " / ".join(f"{100 * row['miou_pruned']:.1f}" for row in rows) if first.get("miou_pruned") is not None else None,
                _against(rows, "before"),
                _against(rows, "l1"),
                f"{first['params'] / 1e6:.2f} M",
                f"{first['gmacs']:.1f}",
                times["full" if name == "full width" else "half"],
            )
        )
    runs = " / ".join(f"ms {timed['runtime']} {timed['precision']}" for timed in found["times"]["full"])
    columns = (
        "variant",
        "mIoU % by seed",
        "95 % of the first",
        "right after the cut %",
        "against full width",
        "against l1 of that seed",
        "parameters",
        "GMACs",
    )
    return markdown_table((*columns, runs), lines)


def pruning_others() -> str:
    """PSPNet and LargeFOV at half their channels, stage by stage."""
    if not (RESULTS / "pruning_others.json").exists():
        return "Not measured yet.\n"
    lines, runs = [], ""
    for name, run in read_result("pruning_others")["rows"].items():
        runs = " / ".join(f"ms {timed['runtime']} {timed['precision']}" for timed in run["times"]["before"])
        for row in run["report"]:
            low, high = row["miou_interval"]
            interval, size = f"{100 * low:.1f} to {100 * high:.1f}", f"{row['params'] / 1e6:.2f} M"
            times = " / ".join(_ms(timed) for timed in run["times"]["before" if row["what"] == "before" else "after"])
            lines.append((name, row["what"], f"{100 * row['miou']:.2f}", interval, size, f"{row['gmacs']:.1f}", times))
    return markdown_table(("run", "stage", "mIoU %", "95 %", "parameters", "GMACs", runs), lines)


def pruning_aim() -> str:
    """ICNet pruned until it takes 60 % of its time."""
    return kept(
        "pruning_aim",
        (
            "runtime",
            "target ms",
            "unpruned then, ms",
            "target of that",
            "ratio in turns [95 %]",
            "share kept",
            "parameters",
            "GMACs",
        ),
        lambda row: (
            f"{row['runtime']} {row['precision']}",
            f"{row['target']['value']:.0f}",
            f"{row['tried'][-1]['ms']:.0f}",
            f"{row['target']['value'] / row['tried'][-1]['ms']:.2f}",
            ratio(row),
            f"{row['share']:.2f}",
            f"{row['params'] / 1e6:.2f} M",
            f"{row['gmacs']:.1f}",
        ),
    )


def _against(rows: Sequence[dict[str, Any]], other: str) -> str | None:
    """Differences to another run on the same pictures, with their intervals."""
    found = [row["against"][other] for row in rows if other in row["against"]]
    return " / ".join(f"{100 * d['difference']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]" for d in found) or None


def _ms(row: dict[str, Any]) -> str:
    return f"{row['ms_per_image']['p50']:.0f}" if "ms_per_image" in row else "-"
