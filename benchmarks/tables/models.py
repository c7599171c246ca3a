"""README's table of models: papers and their scores from ``models.yaml``, sizes counted on the meta device."""

from __future__ import annotations

from pathlib import Path

import yaml
from segzoo.tools._entry import plain
from segzoo.tools._words import read_words

from segzoo.describe import describe, sums
from segzoo.report import markdown_table
from segzoo.zoo import blank_model

LISTED = Path(__file__).with_name("models.yaml")


def models() -> str:
    """Name, paper, idea, parameters, operations, what the authors measured, and where ours differs."""
    rows = []
    for entry in yaml.safe_load(LISTED.read_text(encoding="utf-8")):
        config = plain(read_words("describe", [f"model={entry['name']}"]).jobs[0])[0]
        found = sums(describe(blank_model(config, classes=entry["classes"]), hw=tuple(entry["hw"])))
        size = f"{entry['classes']} classes, {entry['hw'][1]}x{entry['hw'][0]}"
        counts = f"{found['params'] / 1e6:.2f} M", f"{found['gmacs']:.1f}"
        idea, trunk = entry["idea"], config["backbone"]["name"]
        rows.append((f"`{entry['name']}`", entry["paper"], idea, trunk, size, *counts, entry["published"], entry["deviation"]))
    columns = ("model", "paper", "idea", "trunk", "counted at", "parameters", "GMACs", "published mIoU %", "ours differs")
    return markdown_table(columns, rows)
