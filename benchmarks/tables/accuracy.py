"""Tables of what trained networks come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.result_files import RESULTS, read_result
from benchmarks.tables.formatting import kept
from segzoo.report import markdown_table


def first_run() -> str:
    """What README's first command came to."""
    if not (RESULTS / "first_run.json").exists():
        return "Not measured yet.\n"
    found = read_result("first_run")
    result = found["result"]
    classes = ", ".join(f"{name} {100 * row['iou']:.0f}" for name, row in found["per_class"].items())
    return (
        f"mIoU {100 * result['miou']:.1f} % after {result['steps']} steps in {result['train_minutes']:.1f} minutes on "
        f"{found['machine']['cores']} cores ({classes}).\n"
    )


def camvid() -> str:
    """Every CamVid training that was kept."""
    rows = []
    for path in sorted(RESULTS.glob("camvid_*.json")):
        found = read_result(path.stem)
        result, config = found["result"], found["config"]
        model = f"{config['model']['name']}, {config['backbone']['name']} x{config['backbone'].get('width', 1)}"
        marks = " / ".join(f"{at} min {100 * score:.1f}" for at, score in marks_of(found["curve"], result["train_minutes"]))
        rows.append(
            (
                model,
                "240x180" if config["data"].get("title") == "camvid_half" else "480x360",
                f"{result['params'] / 1e6:.2f} M",
                f"{result['train_minutes']:.0f}"
                + ("" if result["finished"] else f", stopped at step {result['steps']} of {config['steps']}"),
                f"{100 * result['miou']:.2f}",
                marks,
                f"{100 * found['baseline']['miou']:.1f}" if "baseline" in found else None,
                source(path),
            )
        )
    return markdown_table(
        ("model", "pictures", "params with aux", "minutes", "best mIoU %", "on the way", "most frequent class alone %", "result"),
        rows,
    )


def marks_of(curve: list[dict[str, Any]], last: float, every: int = 30) -> list[tuple[int, float]]:
    """The best score seen by 30, 60, 90 minutes of a run of ``last`` minutes."""
    marks = [at for at in range(every, int(last) + every + 1, every) if at <= last + 1]
    return [(at, max(row["mIoU"] for row in curve if row["minutes"] <= at + 1)) for at in marks]


def source(path: Path) -> str:
    return f"[json](benchmarks/results/{path.name})"


def crf_effect() -> str:
    """mIoU and milliseconds with and without the CRF."""
    return kept(
        "crf_effect",
        ("model", "mIoU %", "with CRF", "network ms", "CRF ms"),
        lambda r: (
            r["model"],
            f"{100 * r['miou']:.2f}",
            f"{100 * r['miou_crf']:.2f}",
            f"{r['network_ms']:.0f}",
            f"{r['crf_ms']:.0f}",
        ),
    )


def crf_search() -> str:
    """The best parameters that the grid search found."""
    return kept(
        "crf_search_half_largefov",
        ("pictures", "points tried", "without CRF %", "best mIoU %", "w1", "alpha", "beta"),
        lambda r: (
            r["pictures"],
            len(r["coarse"]) + len(r["fine"]),
            f"{100 * r['without']:.2f}",
            f"{100 * r['best']['miou']:.2f}",
            *(f"{r['best'][key]:g}" for key in ("w1", "alpha", "beta")),
        ),
    )


def branches() -> str:
    """ICNet's resolutions: mIoU and milliseconds."""
    return kept(
        "icnet_branches",
        ("branches", "mIoU %", "ms fp32", "ms bf16"),
        lambda r: (r["branches"], f"{100 * r['miou']:.2f}", f"{r['ms_fp32']:.0f}", f"{r['ms_bf16']:.0f}"),
    )


def runtimes() -> str:
    """What runtimes and number formats cost in mIoU."""
    return kept(
        "runtimes_camvid",
        ("runtime", "precision", "mIoU %", "against eager fp32", "ms a picture"),
        lambda r: (r["runtime"], r["precision"], f"{100 * r['miou']:.2f}", f"{r['points']:+.2f}", f"{r['ms']:.0f}"),
    )


def transfer() -> str:
    """Forty pictures with and without a trained start."""
    return kept(
        "transfer",
        ("variant", "seeds", "mIoU %", "spread"),
        lambda r: (
            r["variant"],
            r["seeds"],
            f"{100 * sum(r['miou']) / len(r['miou']):.2f}",
            f"{100 * r['spread']:.2f}" if r.get("spread") is not None else None,
        ),
    )
