"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import cli

ROOT = Path(__file__).parents[2]
NAMES = list(cli.find_benchmarks())


def test_list_names_every_module_once(capsys):
    cli.main(["--list"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    files = [path for folder in cli.GROUPS for path in (ROOT / "benchmarks" / folder).glob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted([*(f"{path.parent.name}/{path.stem}" for path in files), "update_tables"])


def test_list_imports_neither_torch_nor_segzoo():
    code = (
        "import sys; from benchmarks.cli import main; main(['--list']); assert not {'torch', 'numpy', 'segzoo'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", NAMES)
def test_help_describes_the_benchmark(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert text.startswith(f"usage: python -m benchmarks {name}")
    assert cli.summary(cli.find_benchmarks()[name]) in text


@pytest.mark.parametrize("name", NAMES)
def test_summaries_are_short_phrases(name):
    words = cli.summary(cli.find_benchmarks()[name])
    assert words.endswith(".")
    assert 1 <= len(words.split()) <= 12
    assert ";" not in words


@pytest.mark.parametrize(
    "typed, nearest",
    [
        ("speed/crff", "speed/crf"),
        ("speed.runtimes", "speed/runtimes"),
        ("crf", "speed/crf or accuracy/crf"),
        ("update", "update_tables"),
    ],
)
def test_unknown_name_is_rejected_with_the_nearest(typed, nearest, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([typed])
    assert exit_.value.code == 2
    assert f"unknown benchmark '{typed}'; did you mean {nearest}?" in capsys.readouterr().err


def test_unknown_name_without_a_near_one_points_to_the_list(capsys):
    with pytest.raises(SystemExit):
        cli.main(["zzzqqq"])
    error = capsys.readouterr().err
    assert "did you mean" not in error
    assert "python -m benchmarks --list" in error


def test_results_record_the_command_as_typed(monkeypatch):
    seen: list[argparse.Namespace] = []
    fake = SimpleNamespace(__doc__="Fake.", add_arguments=lambda parser: parser.add_argument("run"), main=seen.append)
    monkeypatch.setattr(cli, "load", lambda name: fake)
    cli.main(["speed/crf", "runs/my run"])
    assert seen[0].run == "runs/my run"
    assert seen[0].command == "python -m benchmarks speed/crf 'runs/my run'"


@pytest.mark.parametrize("options", [["article", "--ckpt", "runs/quick"], ["trained"]], ids=" ".join)
def test_sweeps_demand_a_checkpoint_only_where_they_use_one(options):
    with pytest.raises(SystemExit, match="needs --ckpt"):
        cli.main(["speed/runtimes", *options])


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reads_argv(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr in ("argv", "orig_argv"))
        assert not (isinstance(node, ast.ImportFrom) and node.module == "sys")
