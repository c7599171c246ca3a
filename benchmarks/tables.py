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
        marks = " / ".join(f"{at} min {100 * score:.1f}" for at, score in marks_of(found["curve"]))
        rows.append(
            (
                model,
                f"{result['params'] / 1e6:.2f} M",
                f"{result['train_minutes']:.0f}",
                f"{100 * result['miou']:.2f}",
                marks,
                source(path),
            )
        )
    return markdown_table(("model", "params with aux", "minutes", "best mIoU %", "on the way", "result"), rows)


def marks_of(curve: list[dict[str, Any]], every: int = 30) -> list[tuple[int, float]]:
    """The best score seen by 30, 60, 90 minutes."""
    last = curve[-1]["minutes"]
    marks = [at for at in range(every, int(last) + every + 1, every) if at <= last + 1]
    return [(at, max(row["mIoU"] for row in curve if row["minutes"] <= at + 1)) for at in marks]


def peers() -> str:
    """Ratios of our times to the peers'."""
    if not (RESULTS / "peers_360x480.json").exists():
        return "Not measured yet.\n"
    rows = []
    for row in read_result("peers_360x480")["rows"]:
        what = "picture" if row["mode"] == "eval" else "training step"
        interval = f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        rows.append(
            (row["model"], what, row["batch"], row["precision"], f"{row['ours_ms']:.0f}", f"{row['peer_ms']:.0f}", interval)
        )
    note = "The peer of pspnet is mmsegmentation's PSPNet-R50-D8, that of fcn_dilated torchvision's fcn_resnet50; times in ms a batch at 480x360.\n\n"
    return note + markdown_table(("model", "of a", "batch", "precision", "ours", "peer", "ratio [95 %]"), rows)


def source(path: Path) -> str:
    return f"[json](benchmarks/results/{path.name})"


TABLES: dict[str, Callable[[], str]] = {"first_run": first_run, "camvid": camvid, "peers": peers, "models": models}


def filled(text: str) -> str:
    """The page with every table made anew."""
    return BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[4], text)


if __name__ == "__main__":
    for page in PAGES:
        write_text(page, filled(page.read_text(encoding="utf-8")))
        print(page)
