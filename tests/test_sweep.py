"""A sweep from the command line: every job leaves its row, a failed one too, and the table is written whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    "steps=1",
    "batch_size=2",
    "workers=0",
    "val_pictures=0",
    "data.train_images=2",
    "data.val_images=2",
    "data.height=64",
    "data.width=64",
]


@pytest.mark.slow
def test_a_failing_job_loses_no_other_row(tmp_path):
    words = ["-m", "model=icnet_half", "backbone=vgg16,resnet50_deep", *SMALL, f"hydra.sweep.dir={tmp_path}"]
    answer = subprocess.run([sys.executable, "tools/train.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["backbone"] for row in rows] == ["vgg16", "resnet50_deep"]
    assert "width" in rows[0]["error"] and "miou" not in rows[0]
    assert rows[1]["miou"] >= 0 and rows[1]["params"] > 0 and rows[1]["train_minutes"] >= 0
    table = (tmp_path / "table.md").read_text()
    assert table in answer.stdout and "resnet50_deep" in table
