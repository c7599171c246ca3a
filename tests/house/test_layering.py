"""The import graph: no cycle between files, no import of a higher layer, packages of a readable size."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "segzoo"
# A module may import from its own package and from those in rows above its own; packages in one row do not know each other.
LAYERS = (
    ("types", "io", "registry", "device", "distributed", "visualization"),
    ("layers", "checkpoints"),
    ("weights", "data"),
    ("backbones", "losses", "optim", "transforms", "pruning"),
    ("models", "runs", "reporting"),
    ("inference",),
    ("evaluation", "export"),
    ("training", "runtimes"),  # a runtime runs an ExportModel
    ("config",),
    ("workflows",),
    ("api", "cli"),
)
LAYER = {name: row for row, names in enumerate(LAYERS) for name in names}
# Procedures receive objects: they import none of the packages that build them by name.
NO_NAMES = {"inference", "evaluation", "export", "training"}
BY_NAME = {"models", "backbones", "config", "weights"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(module: str) -> set[str]:
    """The modules of segzoo that one imports anywhere: at the top, inside functions, for type checkers, from its own package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            found |= {name} if name else set()
    return found - {module}


GRAPH = {module: imported(module) for module in MODULES}


def package(module: str) -> str:
    return module.split(".")[1]


def test_no_file_imports_itself_through_others():
    graph = {module: names - {"segzoo"} for module, names in GRAPH.items() if module != "segzoo"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circular imports: {' <- '.join(error.args[1])}")


def test_a_cycle_is_seen():
    with pytest.raises(CycleError):
        tuple(TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).static_order())


@pytest.mark.parametrize("module", [name for name in MODULES if name != "segzoo"])
def test_imports_run_downwards(module):
    own = package(module)
    for name in GRAPH[module]:
        assert name != "segzoo", f"{module} imports the root"
        other = package(name)
        if other == own:
            continue
        ground = LAYER[own] == LAYER[other] == 0
        assert ground or LAYER[other] < LAYER[own], f"{module} (layer {LAYER[own]}) imports {name} (layer {LAYER[other]})"
        assert own not in NO_NAMES or other not in BY_NAME, f"{module} receives objects; it may not import {name}"


def test_every_package_has_a_layer():
    assert {package(module) for module in MODULES if module != "segzoo"} == LAYER.keys()


def test_folders_and_files_stay_small():
    for folder in {path.parent for path in MODULES.values()} | {ROOT / "tools"}:
        assert len(list(folder.glob("*.py"))) <= 12 or folder == PACKAGE, f"{folder} holds more than 12 files"
    for path in [*MODULES.values(), *(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 260, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                prose = (ast.get_docstring(node, clean=False) or "").count("\n")  # a signature that is a schema needs its page
                assert (node.end_lineno or 0) - node.lineno - prose < 60, f"{path}: {node.name} is too long for one screen"
