"""A command is corrected until it runs, always in the same directory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segzoo.checkpoints.store import list_checkpoints

pytestmark = pytest.mark.integration

SMALL = [
    "model=icnet",
    "backbone.width=0.125",
    "augment=none",
    "batch_size=2",
    "workers=0",
    "num_val_images=0",
    "device=cpu",
    "steps=1",
]
DATA = ["data=folder", "data.root=${oc.env:DATA_DIR}", "data.classes=[background,part]"]


def write_data(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(2):
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / f"images/{split}/{index}.png")
            mask = (rng.random((64, 64)) > 0.5).astype(np.uint8)
            Image.fromarray(mask * 255).save(root / f"masks/{split}/{index}.png")  # 0 and 255, not class ids


RUN_ALL = """
import json, sys
from segzoo.tools.train import main
for sys.argv[1:] in json.loads(sys.argv.pop()):
    try:
        main()
        print('== "done"')
    except SystemExit as exit:
        print("==", json.dumps(exit.code))
"""


def run_commands(*commands: list[str]) -> list[str]:
    """Run commands in one process, which imports torch only once.

    Returns:
        The error of each, or ``done``.
    """
    process = subprocess.run([sys.executable, "-c", RUN_ALL, json.dumps(commands)], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in re.findall(r"(?m)^== (.*)$", process.stdout)]


def test_a_command_is_corrected_in_the_same_directory(tmp_path, monkeypatch):
    out, data = tmp_path / "run", tmp_path / "data"
    write_data(data)
    monkeypatch.setenv("DATA_DIR", str(data))
    files = ["data.images='images/{split}/{stem}.*'", "data.labels='masks/{split}/{stem}.png'"]
    wrong_root = [*files, f"data.root={tmp_path / 'dat'}"]
    wrong_pattern = [files[0], "data.labels='labels/{split}/{stem}.png'"]
    right = [*files, "data.label_map={0:0,255:1}"]
    extended = [*right, "steps=2", "optim.lr=0.0001", "resume=auto"]
    attempts = (wrong_root, wrong_pattern, files, right, right, extended)
    root, pattern, masks, done, again, longer = run_commands(*([*SMALL, *DATA, f"out={out}", *words] for words in attempts))
    assert str(tmp_path / "dat") in root
    assert "labels" in pattern
    assert "255" in masks and "label_map" in masks
    assert done == "done"
    assert "already holds a run" in again and "resume=auto" in again
    assert longer == "done" and list_checkpoints(out)[-1] == 2
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"]["root"] == "${oc.env:DATA_DIR}"  # what the variable holds may be secret
    assert str(data) not in (out / "metrics.jsonl").read_text() and config["optim"]["lr"] == 0.0001
