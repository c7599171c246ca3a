"""Result files of trainings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import noise, save

from benchmarks.accuracy.keep_run import result_content
from benchmarks.harness.result_files import read_json

ROOT = Path(__file__).parents[2]
WORDS = (
    "model=icnet backbone.width=0.125 augment=none batch_size=2 workers=0 num_val_images=0 device=cpu steps=1 report=false data=folder "
    "data.classes=[a,b] data.root=${oc.env:SEGZOO_DATA,data}/mine data.title=mine"
)


@pytest.mark.integration
def test_a_run_on_data_in_a_variable_is_kept_without_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGZOO_DATA", str(tmp_path))
    for split in ("train", "val"):
        for number in range(2):
            save(tmp_path / f"mine/images/{split}/{number}.png", noise(64, 64, number))
            save(tmp_path / f"mine/labels/{split}/{number}.png", np.eye(64, dtype=np.uint8))
    run = tmp_path / "run"
    subprocess.run([sys.executable, "tools/train.py", *WORDS.split(), f"out={run}"], cwd=ROOT, check=True)
    content = result_content(run)
    assert content["baseline"]["class"] == "a" and content["result"]["miou"] == content["curve"][-1]["mIoU"]
    assert str(tmp_path) not in str(content) and "root" not in content["config"]["data"]
    subprocess.run(
        [
            sys.executable,
            "tools/eval.py",
            f"ckpt={run}",
            "protocol.input_hw=[96,96]",
            "device=cpu",
            "workers=0",
            f"out={tmp_path / 'large'}",
        ],
        cwd=ROOT,
        check=True,
    )
    other = result_content(run, tmp_path / "large")
    assert other["result"]["miou"] == read_json(tmp_path / "large/summary.json")["miou"]
    assert other["scored_by"]["versions"] == read_json(tmp_path / "large/env.json")["versions"]
    assert other["protocol"]["input_hw"] == [96, 96] and other["curve"] == []
