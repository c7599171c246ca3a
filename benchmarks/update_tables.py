"""Writes every table of README.md and benchmarks/README.md from the result files and the models: ``python -m benchmarks.tables``.

A table stands between ``<!-- table: name -->`` and ``<!-- end -->``; a test fails when one is not what its result files say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import accuracy as quality
from benchmarks.tables import pruning as slimmer
from benchmarks.tables import speed
from benchmarks.tables.models import models
from segzoo.report import write_text

ROOT = Path(__file__).parents[1]

PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

MAKERS = (
    models,
    quality.first_run,
    quality.camvid,
    quality.crf_effect,
    quality.crf_search,
    quality.branches,
    quality.runtimes,
    quality.transfer,
    slimmer.pruning,
    slimmer.pruning_others,
    slimmer.pruning_aim,
    speed.peers,
    speed.peers_full_size,
    speed.article,
    speed.trained,
    speed.cuda,
    speed.labels,
    speed.dilated,
    speed.profiles,
    speed.crf,
    speed.overhead,
    speed.ranks,
)
TABLES: dict[str, Callable[[], str]] = {maker.__name__: maker for maker in MAKERS}


def filled(text: str) -> str:
    """The page with every table made anew."""
    return BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[4], text)


if __name__ == "__main__":
    for page in PAGES:
        write_text(page, filled(page.read_text(encoding="utf-8")))
        print(page)
