"""What importing costs, where Hydra may be used, and a test for every known error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "segzoo").rglob("*.py"))


def test_hydra_stays_in_the_cli():
    hydra = {p.parent.name for p in SOURCES if re.search(r"^\s*(import|from) (hydra|omegaconf)", p.read_text(), re.MULTILINE)}
    assert hydra == {"cli"}
    assert not [p for p in (ROOT / "conf").rglob("*.yaml") if "_target_" in p.read_text()]


@pytest.mark.parametrize(
    "statement",
    [
        "import segzoo",
        "import segzoo.config.commands, segzoo.config.cross_checks, segzoo.config.from_checkpoint",
        "import segzoo.cli.overrides",
    ],
)
def test_importing_is_cheap(statement):
    heavy = "{'torch', 'torchvision', 'albumentations', 'cv2', 'tensorboard'}"
    code = f"{statement}; import sys; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("words", [["--help"], ["-sc", "query=bash"], ["--cfg", "job"]], ids=" ".join)
def test_asking_loads_no_torch(words):
    probe = "import runpy, sys; sys.argv = ['train.py', *{words!r}]\ntry:\n    runpy.run_path('tools/train.py', run_name='__main__')\nexcept SystemExit as e:\n    assert not e.code, e.code\nassert 'torch' not in sys.modules"
    environment = {"COMP_LINE": "python tools/train.py model=", "COMP_POINT": "28", "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        [sys.executable, "-c", probe.format(words=words)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert "icnet_half" in answer.stdout or "first_block_dilation" in answer.stdout


def test_every_fault_in_the_table_has_its_test():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "tests" / "FAULTS.md").read_text(encoding="utf-8")))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert named and named <= there, sorted(named - there)


def test_one_function_upsamples():
    found = {
        path.relative_to(ROOT / "segzoo").as_posix() for path in SOURCES if "F.interpolate(" in path.read_text(encoding="utf-8")
    }
    assert found == {"layers/resize.py"}
