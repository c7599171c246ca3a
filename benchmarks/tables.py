"""Writes every table of README.md and benchmarks/README.md from the result files and the models: ``python -m benchmarks.tables``.

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; a test fails when one is not what its result files say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.model_table import models
from benchmarks.results import RESULTS, read_result
from segzoo.report import markdown_table, write_text

ROOT = Path(__file__).parents[1]

PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


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


def peers() -> str:
    """Ratios of our times to the peers'."""
    if not (RESULTS / "peers_360x480.json").exists():
        return "Not measured yet.\n"
    rows = []
    for row in read_result("peers_360x480")["rows"]:
        what = "picture" if row["mode"] == "eval" else "training step"
        if "peer_refuses" in row:
            rows.append((row["model"], what, row["batch"], row["precision"], None, None, "the peer's norms refuse this batch"))
            continue
        interval = f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        rows.append(
            (row["model"], what, row["batch"], row["precision"], f"{row['ours_ms']:.0f}", f"{row['peer_ms']:.0f}", interval)
        )
    note = "The peer of pspnet is mmsegmentation's PSPNet-R50-D8, that of fcn_dilated torchvision's fcn_resnet50; times in ms a batch at 480x360.\n\n"
    return note + markdown_table(("model", "of a", "batch", "precision", "ours", "peer", "ratio [95 %]"), rows)


def kept(name: str, columns: tuple[str, ...], row: Callable[[dict[str, Any]], tuple[Any, ...]]) -> str:
    """A table of a result file's rows; what stands there until it is measured."""
    if not (RESULTS / f"{name}.json").exists():
        return "Not measured yet.\n"
    return markdown_table(columns, map(row, read_result(name)["rows"]))


def crf() -> str:
    """The CRF's time beside pydensecrf2's."""
    return kept(
        "crf_360x480",
        ("ours ms", "pydensecrf2 ms", "ratio [95 %]", "equal labels %"),
        lambda r: (
            f"{r['ours_ms']:.0f}",
            f"{r['peer_ms']:.0f}",
            f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]",
            f"{100 * r['agreement']:.2f}",
        ),
    )


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


def overhead() -> str:
    """What a checkpoint costs beside plain ``torch.save``, and the time to the first step."""
    return kept(
        "overhead",
        ("what", "seconds", "torch.save", "ratio [95 %]"),
        lambda r: (
            r["what"],
            f"{r['ours_ms'] / 1000:.2f}",
            f"{r['peer_ms'] / 1000:.2f}" if "peer_ms" in r else None,
            f"{r['ratio']:.1f} [{r['low']:.1f}, {r['high']:.1f}]" if "ratio" in r else None,
        ),
    )


def ranks() -> str:
    """Images a second on one and on several processes."""
    return kept(
        "ranks",
        ("device", "processes", "pictures each", "norm", "images a second"),
        lambda r: (r["device"], r["ranks"], r["batch_a_rank"], r["norm"], f"{r['images_per_s']:.1f}"),
    )


def branches() -> str:
    """ICNet's resolutions: mIoU and milliseconds."""
    return kept(
        "icnet_branches",
        ("branches", "mIoU %", "ms fp32", "ms bf16"),
        lambda r: (r["branches"], f"{100 * r['miou']:.2f}", f"{r['ms_fp32']:.0f}", f"{r['ms_bf16']:.0f}"),
    )


def speed() -> str:
    """A picture of 1024x2048 from bytes to labels, beside the peers in the same runtime."""
    return kept(
        "peers_1024x2048",
        ("model", "peer", "runtime", "precision", "ours ms", "peer ms", "ratio [95 %]"),
        lambda r: (
            r["model"],
            r["peer"],
            r["runtime"],
            r["precision"],
            f"{r['ours_ms']:.0f}",
            f"{r['peer_ms']:.0f}",
            f"{r['ratio']:.2f} [{r['low']:.2f}, {r['high']:.2f}]",
        ),
    )


def article() -> str:
    """ICNet at 1024x2048 by runtime, number format and batch; what did not run says why."""

    def cells(row: dict[str, Any]) -> tuple[Any, ...]:
        told = (row["runtime"], row.get("precision"), row.get("batch"))
        if "unable" in row:
            return (*told, None, None, None, row["unable"].splitlines()[0])
        half = 100 * row["ms_per_image"]["p90"] / row["ms_per_image"]["p50"] - 100
        middle, share = f"{row['ms_per_image']['p50']:.0f}", f"{100 * row['share_of_peak']:.0f}"
        return (*told, middle, share, f"{100 * row['agreement']:.2f}", f"p90 {half:.0f} % above" if row["warnings"] else None)

    return kept(
        "article_1024x2048", ("runtime", "precision", "batch", "ms a picture", "of peak %", "equal labels %", "remarks"), cells
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


def source(path: Path) -> str:
    return f"[json](benchmarks/results/{path.name})"


MAKERS = (
    first_run,
    camvid,
    peers,
    models,
    crf,
    crf_effect,
    crf_search,
    branches,
    speed,
    article,
    runtimes,
    transfer,
    overhead,
    ranks,
)
TABLES: dict[str, Callable[[], str]] = {maker.__name__: maker for maker in MAKERS}


def filled(text: str) -> str:
    """The page with every table made anew."""
    return BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[4], text)


if __name__ == "__main__":
    for page in PAGES:
        write_text(page, filled(page.read_text(encoding="utf-8")))
        print(page)
