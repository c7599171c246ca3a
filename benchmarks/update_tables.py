"""Rewrite the tables and figures of all README pages.

Tables are made from the result files. A table stands between ``<!-- table: name -->`` and ``<!-- end -->``. A test fails if one differs from its result files, or a figure from
its code.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from benchmarks.figures.accuracy_latency import accuracy_latency
from benchmarks.figures.models import NETWORKS
from benchmarks.harness.result_files import ROOT
from benchmarks.tables import accuracy, costs, history, models, pruning, speed, studies
from segzoo.io import write_text

PAGES = tuple(
    ROOT / folder / "README.md"
    for folder in ("", "benchmarks", "benchmarks/speed", "benchmarks/costs", "benchmarks/accuracy", "benchmarks/studies")
)
IMAGES = ROOT / "benchmarks" / "images"
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
FIGURES: dict[str, Callable[[], str]] = {
    **NETWORKS,
    "accuracy_latency": lambda: accuracy_latency(history.history_rows("history")),
}
TABLES: dict[str, Callable[[], str]] = {
    make.__name__: make
    for make in (
        models.models,
        accuracy.first_run,
        accuracy.pretrained_parts,
        accuracy.inspection,
        accuracy.camvid,
        accuracy.crf_effect,
        accuracy.crf_grid_search,
        studies.icnet_branches,
        accuracy.runtime_accuracy,
        studies.few_shot_transfer,
        studies.few_shot_transfer_other_drive,
        studies.narrowing,
        studies.rare_classes,
        accuracy.suspects,
        accuracy.compare_camvid,
        history.history,
        history.history_pairs,
        history.history_runs,
        history.history_tenth,
        history.history_tenth_pairs,
        history.ablations,
        history.recipe_search,
        history.recipe_search_long,
        pruning.pruning,
        pruning.pruning_pspnet_largefov,
        pruning.pruning_latency_target,
        speed.peers,
        speed.peers_1024x2048,
        speed.icnet_latency,
        speed.runtimes_article,
        speed.runtimes_trained,
        speed.runtimes_cuda,
        speed.upsample_argmax,
        speed.space_to_batch,
        speed.profile_layers,
        speed.crf,
        speed.loading,
        speed.prediction,
        speed.evaluation,
        speed.service,
        speed.checkpoint_overhead,
        speed.ddp_scaling,
        costs.training_step,
        costs.training_memory,
        costs.scaling,
    )
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: all pages are written."""


def fill_tables(text: str) -> str:
    """Return a page with all its tables made anew."""
    return BLOCK.sub(lambda match: match[1] + TABLES[match[2]]() + match[4], text)


def main(args: argparse.Namespace) -> None:
    """Rewrite every page and figure in place."""
    for name, draw in FIGURES.items():
        write_text(IMAGES / f"{name}.svg", draw())
    for page in PAGES:
        write_text(page, fill_tables(page.read_text(encoding="utf-8")))
        print(page.relative_to(ROOT))
