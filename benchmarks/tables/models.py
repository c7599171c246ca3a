"""The table of models in the main README.

Papers and their scores come from ``models.yaml``; parameters and operations are counted on the meta device.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from segzoo.cli.app import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.build import build_meta_model
from segzoo.reporting.numbers import format_millions
from segzoo.reporting.tables import markdown_table
from segzoo.workflows.benchmark.model_summary import describe, totals

LISTED = Path(__file__).with_name("models.yaml")
COLUMNS = (
    "model",
    "paper",
    "main idea",
    "backbone",
    "counted for",
    "parameters",
    "GMACs",
    "published mIoU %",
    "deviation of the network",
)


def models() -> str:
    """One row per model: paper, main idea, size, published score and deviation."""
    rows = []
    for entry in yaml.safe_load(LISTED.read_text(encoding="utf-8")):
        config = resolve_config(parse_overrides("describe", [f"model={entry['name']}"]).jobs[0])[0]
        sums = totals(describe(build_meta_model(config, num_classes=entry["classes"]), hw=tuple(entry["hw"])))
        size = f"{entry['classes']} classes, {entry['hw'][0]}x{entry['hw'][1]}"
        counts = format_millions(sums["params"]), f"{sums['gmacs']:.1f}"
        idea, backbone = entry["idea"], config["backbone"]["name"]
        rows.append((f"`{entry['name']}`", entry["paper"], idea, backbone, size, *counts, entry["published"], entry["deviation"]))
    return markdown_table(COLUMNS, rows)
