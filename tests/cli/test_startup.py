"""Modules that a tool imports before its first result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dataset_actions import FOLDER
from image_files import make_pairs

ROOT = Path(__file__).parents[2]
FIRST_STEP = """
import runpy, sys
import numpy as np
import segzoo
from segzoo.training.step import TrainStep

step = TrainStep.__call__

def first_step(self, *arguments):
    step(self, *arguments)
    segzoo.load(OUT + "/checkpoints/0").predict(np.zeros((64, 64, 3), np.uint8))
    slow = {"torch._dynamo", "torch._inductor", "sympy", "torchvision", "albumentations", "scipy", "matplotlib", "pandas", "onnx"}
    raise SystemExit(f"imported: {found}" if (found := sorted(slow & set(sys.modules))) else 0)

OUT = sys.argv[1]
TrainStep.__call__ = first_step
sys.argv = ["train.py", "batch_size=1", "workers=0", "device=cpu", "data.width=256", "out=" + OUT]
runpy.run_path("tools/train.py", run_name="__main__")
"""
VERIFY = """
import runpy, sys
sys.argv = ["dataset.py", "action=verify", *sys.argv[1:]]
runpy.run_path("tools/dataset.py", run_name="__main__")
assert "torch" not in sys.modules
"""
pytestmark = pytest.mark.integration


def run(code: str, *arguments: str) -> None:
    process = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


def test_a_first_step_and_a_first_label_need_no_compiler(tmp_path):
    """PyTorch's compiler takes as long to import as PyTorch itself."""
    run(FIRST_STEP, str(tmp_path / "run"))


def test_a_data_set_is_verified_without_torch(tmp_path):
    make_pairs(tmp_path / "my", "train/{stem}.png", "train_masks/{stem}.png")
    run(VERIFY, *FOLDER, f"data.root={tmp_path / 'my'}", "data.classes=[a,b,c]", f"out={tmp_path / 'out'}")
    assert (tmp_path / "out/dataset.json").is_file()
