"""The import graph has no cycles and runs down the layers."""

from __future__ import annotations

import ast
import re
import subprocess
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "segzoo"
# A module may import from its own package and from packages in rows above. Packages in the same row do not import each other.
LAYERS = (
    (
        *("types", "class_names", "io", "messages", "progress", "registry", "device", "distributed"),
        *(
            "visualization",
            "image_decoder",
            "channel_decoder",
            "channel_files",
            "decoder_warnings",
            "pixel_format",
            "resources",
            "system_errors",
        ),
    ),
    ("layers", "checkpoints"),
    ("weights", "data"),
    ("backbones", "losses", "optim", "transforms", "pruning", "runs", "reporting"),
    ("inference", "loggers"),
    ("models",),  # a model predicts
    ("evaluation",),
    ("export",),  # its check of int8 evaluates
    ("training", "runtimes"),  # a runtime runs an ExportModel
    ("config",),
    ("workflows",),
    ("api", "cli"),
)
LAYER = {name: row for row, names in enumerate(LAYERS) for name in names}
# These packages receive objects and import no package that builds them by name.
OBJECTS_ONLY = {"inference", "evaluation", "export", "training"}
BUILDERS = {"models", "backbones", "config", "weights"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(module: str) -> set[str]:
    """Modules of segzoo that a module imports.

    Includes imports inside functions, for type checkers, and from its own package.
    """
    modules: set[str] = set()
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
            modules |= {name} if name else set()
    return modules - {module}


GRAPH = {module: imported(module) for module in MODULES}


def package(module: str) -> str:
    return module.split(".")[1]


def test_imports_have_no_cycle():
    graph = {module: names - {"segzoo"} for module, names in GRAPH.items() if module != "segzoo"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circular imports: {' <- '.join(error.args[1])}")


def test_a_cycle_is_detected():
    with pytest.raises(CycleError):
        tuple(TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).static_order())


def test_imports_run_downwards():
    for module, name in [(m, name) for m in MODULES if m != "segzoo" for name in GRAPH[m]]:
        assert name != "segzoo", f"{module} imports the segzoo package itself"
        own, other = package(module), package(name)
        if other == own:
            continue
        both_bottom = LAYER[own] == LAYER[other] == 0
        assert both_bottom or LAYER[other] < LAYER[own], f"{module} (layer {LAYER[own]}) imports {name} (layer {LAYER[other]})"
        assert own not in OBJECTS_ONLY or other not in BUILDERS, f"{module} receives objects and must not import {name}"


def test_every_package_has_a_layer():
    assert {package(module) for module in MODULES if module != "segzoo"} == LAYER.keys()


def test_contributing_lists_every_package():
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    listed = [set(re.findall(r"`(\w+)/?`", row.split("|")[2])) for row in rows]
    assert listed == [set(names) for names in LAYERS]


def test_folders_and_files_stay_small():
    for folder in {path.parent for path in MODULES.values()} | {ROOT / "tools"}:
        assert len(list(folder.glob("*.py"))) <= 12 or folder == PACKAGE, f"{folder} holds more than 12 files"
    for path in [*MODULES.values(), *(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 260, f"{path} has {text.count(chr(10))} lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{path}: {node.name} has {length} lines"


def test_the_top_level_holds_what_was_decided():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    hidden = {".ci", ".github", ".gitignore", ".pre-commit-config.yaml"}
    folders = {"segzoo", "conf", "tools", "benchmarks", "tests"}
    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} == hidden | folders | {
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
