"""Modules that a training has imported when its first step ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = """
import runpy, sys
from segzoo.training.step import TrainStep

step = TrainStep.__call__

def first_step(self, *arguments):
    step(self, *arguments)
    slow = {"torch._dynamo", "torch._inductor", "sympy", "torchvision", "albumentations", "scipy", "matplotlib", "pandas", "onnx"}
    raise SystemExit(f"imported: {found}" if (found := sorted(slow & set(sys.modules))) else 0)

TrainStep.__call__ = first_step
sys.argv = ["train.py", "batch_size=1", "workers=0", "device=cpu", "data.width=256", "out=" + sys.argv[1]]
runpy.run_path("tools/train.py", run_name="__main__")
"""


@pytest.mark.integration
def test_the_first_step_needs_no_compiler(tmp_path):
    """PyTorch's compiler takes as long to import as PyTorch itself."""
    process = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert (tmp_path / "run/checkpoints/0/manifest.json").is_file()
