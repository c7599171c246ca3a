"""Cheap imports, Hydra in the cli only, tests for known errors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "segzoo").rglob("*.py"))


def test_hydra_stays_in_the_cli():
    importing = {p.parent.name for p in SOURCES if re.search(r"^\s*(import|from) (hydra|omegaconf)", p.read_text(), re.MULTILINE)}
    assert importing == {"cli"}
    assert not [p for p in (ROOT / "conf").rglob("*.yaml") if "_target_" in p.read_text()]


@pytest.mark.parametrize(
    "statement",
    [
        "import segzoo",
        "import segzoo.config.commands, segzoo.config.cross_checks, segzoo.config.from_checkpoint",
        "import segzoo.cli.overrides",
        "from segzoo.registry import ACTIONS; ACTIONS.names()",
    ],
)
def test_importing_is_cheap(statement):
    heavy = "{'torch', 'torchvision', 'albumentations', 'cv2', 'tensorboard', 'timm'}"
    code = f"{statement}; import sys; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("words", [["--help"], ["-sc", "query=bash"], ["--cfg", "job"]], ids=" ".join)
def test_help_and_completion_import_no_torch(words):
    probe = "import runpy, sys; sys.argv = ['train.py', *{words!r}]\ntry:\n    runpy.run_path('tools/train.py', run_name='__main__')\nexcept SystemExit as e:\n    assert not e.code, e.code\nassert not {{'torch', 'timm'}} & set(sys.modules)"
    environment = {"COMP_LINE": "python tools/train.py model=", "COMP_POINT": "28", "PATH": "/usr/bin:/bin"}
    process = subprocess.run(
        [sys.executable, "-c", probe.format(words=words)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert "icnet_half" in process.stdout or "first_block_dilation" in process.stdout


def test_every_test_of_the_error_table_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "tests" / "FAULTS.md").read_text(encoding="utf-8")))
    existing = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert named and named <= existing, sorted(named - existing)


def test_only_one_module_upsamples():
    modules = {
        path.relative_to(ROOT / "segzoo").as_posix() for path in SOURCES if "F.interpolate(" in path.read_text(encoding="utf-8")
    }
    assert modules == {"layers/resize.py"}


def test_any_stays_rare():
    """It is for plain containers, objects of untyped libraries and hooks of torch."""
    lines = {
        (path.name, node.lineno)
        for path in (ROOT / "segzoo").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "Any"
    }
    assert 10 < len(lines) < 60, "a type, a protocol or object fits most values"
