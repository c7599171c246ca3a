"""The walls of the house: who may import whom, what importing costs, how big a room may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOOR = {
    **dict.fromkeys(("registry", "types", "files", "report"), 0),  # the ground: standard library only, everyone stands on it
    **dict.fromkeys(("weights", "crf", "describe", "export", "layers", "bundle"), 1),
    **dict.fromkeys(
        (
            "backbones",
            "losses",
            "data",
            "augment",
            "mix",
            "distill",
            "pruners",
            "runtimes",
            "optim",
            "schedules",
            "post",
            "metrics",
        ),
        2,
    ),
    **dict.fromkeys(("models", "engine"), 3),
    **dict.fromkeys(("config", "rules", "zoo", "subject", "measured", "aim", "pruned"), 4),
}
# rooms an engine function may call though they stand on floor 2 or 3: they hand over batches, pictures and counts, and know no names
SERVICES = {("engine", "data.loader"), ("engine", "data.read"), ("engine", "metrics")}
SOURCES = sorted((ROOT / "segzoo").rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT / "segzoo").with_suffix("").parts
    return parts[0]


def imported(path: Path) -> set[str]:
    """Every segzoo module a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] == "segzoo"}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name != "__init__.py" or p.parent.name != "segzoo"], ids=str)
def test_imports_run_downwards(path):
    own = room(path)
    for name in imported(path):
        assert name != "segzoo", f"{path.name} imports the root"
        inner = name.removeprefix("segzoo.")
        other = inner.split(".")[0]
        if other == own or (own, inner) in SERVICES:
            continue
        beside = FLOOR[own] == FLOOR[other] and FLOOR[own] in (0, 4)
        assert FLOOR[other] < FLOOR[own] or beside, f"{own} (floor {FLOOR[own]}) imports {inner}"
        assert not (own == "engine" and FLOOR[other] == 2), f"engine receives objects; it may not import {inner}"


def test_hydra_stays_in_tools():
    hydra = [p for p in SOURCES if "import hydra" in p.read_text() or "from hydra" in p.read_text() or "omegaconf" in p.read_text()]
    assert hydra == []
    assert not [p for p in (ROOT / "conf").rglob("*.yaml") if "_target_" in p.read_text()]


@pytest.mark.parametrize(
    "statement", ["import segzoo", "import segzoo.config, segzoo.rules, segzoo.zoo", "import segzoo.tools._words"]
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
    assert "icnet_half" in answer.stdout or "first_block" in answer.stdout


def test_rooms_and_functions_stay_small():
    for path in [*SOURCES, *(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 260, f"{path.name} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                prose = (ast.get_docstring(node, clean=False) or "").count("\n")  # a signature that is a schema needs its page
                assert (node.end_lineno or 0) - node.lineno - prose < 60, f"{path.name}: {node.name} is too long for one screen"


def test_every_fault_in_the_table_has_its_test():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "tests" / "FAULTS.md").read_text(encoding="utf-8")))
    there = {
        name
        for path in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    assert named and named <= there, sorted(named - there)
