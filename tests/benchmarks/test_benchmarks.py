"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import cli
from benchmarks.accuracy import ablations, compare_camvid, history, inspection, pruning, recipe_search, suspects
from benchmarks.costs import scaling, training_step
from benchmarks.harness.camvid_drives import drive_images
from benchmarks.harness.tool_runs import CAMVID_FINETUNING, NO_REPORT
from benchmarks.harness.training_steps import crop_of
from benchmarks.speed import checkpoint_overhead, runtimes
from benchmarks.studies import few_shot_transfer, narrowing, pruning_pspnet_largefov, rare_classes
from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.commands import COMMANDS
from segzoo.config.sections import section_errors
from segzoo.runs.environment import git_commit

ROOT = Path(__file__).parents[2]
NAMES = list(cli.find_benchmarks())
OVERRIDES = {  # case -> tool and the overrides that a benchmark passes to it
    **{f"sweep {name}": ("bench", list(words)) for name, words in runtimes.SWEEPS.items()},
    **{
        f"pruning {name}": ("prune", [*words, *CAMVID_FINETUNING, *NO_REPORT])
        for name, (words, _) in pruning.VARIANTS.items()
        if name != "scratch"
    },
    "pruning scratch": ("train", ["model=icnet_half", "data=camvid", *CAMVID_FINETUNING]),
    "checkpoint overhead": ("train", list(checkpoint_overhead.DATA)),
    **{f"compare {name}": ("eval", ["ckpt=any", *words]) for name, words in compare_camvid.PROTOCOLS.items()},
    **{f"history {name}": ("train", ["experiment=history", *row.overrides]) for name, row in history.ROWS.items()},
    **{f"time of {name}": ("bench", list(row.timed)) for name, row in history.ROWS.items()},
    **{
        f"ablation {network.run}": ("train", ["experiment=history_tenth", *network.overrides])
        for networks in ablations.GROUPS.values()
        for network in networks
    },
    "inspection training": ("train", [*inspection.TRAINING]),
    "inspection pruning": ("prune", ["ckpt=any", *inspection.PRUNING]),
    "inspection export": ("export", ["ckpt=any", *inspection.EXPORT]),
    "inspection scores": ("eval", ["ckpt=any", *inspection.SCORES]),
    "suspects": ("train", ["data=camvid", *suspects.TRAINING]),
    "pspnet and largefov": ("prune", [*pruning_pspnet_largefov.PRUNING, *pruning_pspnet_largefov.REPORT]),
    **{
        f"transfer {name}": ("train", [*few_shot_transfer.COMMON, *words])
        for name, (words, _) in few_shot_transfer.VARIANTS.items()
    },
    **{
        f"{search.result} {name}": ("train", [*recipe_search.COMMON, *search.overrides, *words])
        for search in (recipe_search.SHORT, recipe_search.LONG)
        for name, words in search.changes.items()
    },
    **{f"narrowing {name}": ("train", [*narrowing.COMMON, *words]) for name, words in narrowing.VARIANTS.items()},
    **{f"rare classes {name}": ("train", [*rare_classes.COMMON, override]) for name, override in rare_classes.VARIANTS.items()},
}


def test_list_contains_every_benchmark_once(capsys):
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
def test_help_shows_usage_and_summary(name, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert text.startswith(f"usage: python -m benchmarks {name}")
    assert cli.summary(cli.find_benchmarks()[name]) in text


@pytest.mark.parametrize("name", NAMES)
def test_summaries_are_short(name):
    words = cli.summary(cli.find_benchmarks()[name])
    assert words.endswith(".")
    assert 1 <= len(words.split()) <= 12
    assert ";" not in words


@pytest.mark.parametrize(
    "typed, suggestion",
    [
        ("speed/crff", "speed/crf"),
        ("speed.runtimes", "speed/runtimes"),
        ("crf", "speed/crf or accuracy/crf"),
        ("update", "update_tables"),
    ],
)
def test_unknown_name_suggests_the_closest(typed, suggestion, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([typed])
    assert exit_.value.code == 2
    assert f"unknown benchmark '{typed}'; did you mean {suggestion}?" in capsys.readouterr().err


def test_unknown_name_without_a_close_one_points_to_the_list(capsys):
    with pytest.raises(SystemExit):
        cli.main(["zzzqqq"])
    error = capsys.readouterr().err
    assert "did you mean" not in error
    assert "python -m benchmarks --list" in error


def test_command_is_recorded_as_typed(monkeypatch):
    calls: list[argparse.Namespace] = []
    fake = SimpleNamespace(__doc__="Fake.", add_arguments=lambda parser: parser.add_argument("run"), main=calls.append)
    monkeypatch.setattr(cli, "load", lambda name: fake)
    cli.main(["speed/crf", "runs/my run"])
    assert calls[0].run == "runs/my run"
    assert calls[0].command == "python -m benchmarks speed/crf 'runs/my run'"


def test_difference_of_rare_class_runs_is_paired():
    result = rare_classes.difference([0.5, 0.7, 0.6], [0.4, 0.5, 0.3])  # differences 0.1, 0.2, 0.3
    margin = 4.303 * 0.1 / 3**0.5
    assert result == pytest.approx({"mean": 0.2, "low": 0.2 - margin, "high": 0.2 + margin})


def test_exponents_are_fitted_in_each_round():
    taken = {size: [factor * size**1.5 for factor in (1.0, 2.0, 3.0)] for size in (10, 100, 1000)}
    assert scaling.fit_exponent(taken) == pytest.approx({"exponent": 1.5, "low": 1.5, "high": 1.5})
    taken[1000][2] *= 10  # the third round has exponent 2
    fitted = scaling.fit_exponent(taken)
    assert fitted["exponent"] == pytest.approx((1.5 + 1.5 + 2) / 3) and fitted["low"] < 1.5 < 2 < fitted["high"]


@pytest.mark.parametrize("options", [["article", "--ckpt", "runs/quick"], ["trained"]], ids=" ".join)
def test_only_the_trained_sweep_takes_a_checkpoint(options):
    with pytest.raises(SystemExit, match="needs --ckpt"):
        cli.main(["speed/runtimes", *options])


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_reads_argv(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr in ("argv", "orig_argv"))
        assert not (isinstance(node, ast.ImportFrom) and node.module == "sys")


@pytest.mark.integration
@pytest.mark.parametrize("case", OVERRIDES)
def test_overrides_match_the_settings_of_their_tool(case):
    """Every value of a sweep stands in one of the jobs, whose number is that of the longest list of values."""
    tool, overrides = OVERRIDES[case]
    overrides = [override.format(source="runs/source") for override in overrides]
    sweeps = [(key, split_list(values)) for key, _, values in (o.partition("=") for o in overrides)] if tool == "bench" else []
    jobs = [
        [f"{key}={values[i % len(values)]}" for key, values in sweeps] for i in range(max((len(v) for _, v in sweeps), default=0))
    ]
    for job in jobs or [overrides]:
        parsed = parse_overrides(tool, job)
        assert parsed.errors == []
        if tool == "train":  # other tools take sections from a checkpoint
            config = resolve_config(parsed.jobs[0])[0]
            assert [error for name in COMMANDS[tool].sections for error in section_errors(name, config[name], False)] == []


def split_list(values: str) -> list[str]:
    """Split the values of a swept setting at commas outside brackets."""
    return re.split(r",(?![^\[]*\])", values)


def test_drives_are_scored_on_images_of_another_drive(tmp_path):
    camvid = tmp_path / "camvid"
    for folder in ("train", "trainannot", "val", "valannot"):
        (camvid / folder).mkdir(parents=True)
    for name in [f"{drive}_{number:03d}" for drive in ("0001TP", "0006R0", "0016E5") for number in range(45)]:
        (camvid / "train" / f"{name}.png").touch()
    (camvid / "val" / "0016E5_900.png").touch()
    for name, drives in few_shot_transfer.DRIVES.items():
        few_shot_transfer.link_subsets(tmp_path / name, camvid, drives)
    lists = {path: path.read_text().split() for path in tmp_path.glob("*/*/*.txt")}
    assert {name[:6] for name in lists[tmp_path / "other/source/train.txt"]} == {"0016E5"}
    assert {name[:6] for name in lists[tmp_path / "other/few/train.txt"]} == {"0006R0"} and len(
        lists[tmp_path / "other/few/train.txt"]
    ) == 40
    assert lists[tmp_path / "other/few/val.txt"] == drive_images(camvid, "0001TP")
    assert (tmp_path / "other/few/val").resolve() == camvid / "train" and (tmp_path / "same/few/val").resolve() == camvid / "val"
    assert lists[tmp_path / "same/few/val.txt"] == ["0016E5_900"]


def test_crops_are_enlarged_for_peers_that_need_multiples_of_32():
    assert crop_of("pspnet_32", (360, 480)) == (384, 480) and crop_of("pspnet_32", (713, 713)) == (736, 736)
    assert crop_of("pspnet", (360, 480)) == (360, 480)


def test_a_measured_row_is_kept_but_not_of_another_commit(tmp_path, monkeypatch):
    case: training_step.Case = ("icnet_half", (360, 480), "fp32")
    taken: list[training_step.Case] = []
    commit = git_commit()
    assert commit is not None
    monkeypatch.setattr(training_step, "measure", lambda *case: taken.append(case) or {"segzoo_ms": 1.0})
    for _ in range(2):
        assert training_step.measure_or_read(tmp_path / "out", case) == {"segzoo_ms": 1.0}
    assert taken == [case]
    path = training_step.row_file(tmp_path / "out", case)
    path.write_text(path.read_text().replace(commit["commit"], "0" * 40))
    with pytest.raises(SystemExit, match=f"icnet_half-360x480-fp32.json was measured at .*{'0' * 40}"):
        training_step.measure_or_read(tmp_path / "out", case)


def test_a_recipe_keeps_what_gains_more_than_the_spread_of_seeds():
    gains = dict.fromkeys(recipe_search.CHANGES, 0.0) | {"OHEM": 0.03, "label smoothing 0.1": 0.05, "color jitter 0.4": 0.01}
    assert recipe_search.kept_changes(gains, 0.02) == ["label smoothing 0.1"]
    assert recipe_search.kept_changes(gains, 0.005) == ["label smoothing 0.1", "color jitter 0.4"]
    assert recipe_search.kept_changes(gains, 0.06) == []
    assert recipe_search.kept_changes({"OHEM": 0.03}, 0.02) == ["OHEM"]  # its rival was not tried
