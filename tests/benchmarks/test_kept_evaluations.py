"""Evaluations of studies that are compared without their runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from planted_evaluations import store_run

from benchmarks.accuracy import history
from benchmarks.harness import kept_evaluations, result_files
from benchmarks.harness.kept_evaluations import KeptRun, is_kept, keep_evaluation, kept_names, kept_run
from benchmarks.harness.result_files import without_path
from segzoo.evaluation.bootstrap import mean_iou
from segzoo.workflows.compare.comparison import compare_evaluations
from segzoo.workflows.compare.evaluations import find_evaluations

ROOT = Path(__file__).parents[2]
KEPT = sorted(path.relative_to(ROOT / "benchmarks/results") for path in (ROOT / "benchmarks/results").glob("*/*.json"))


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Folder whose ``results`` take the place of the repository's."""
    monkeypatch.setattr(result_files, "RESULTS", tmp_path / "results")
    return tmp_path


def finish_run(folder: Path, quality: float, seed: int, steps: int = 2400, lr: float = 0.01) -> Path:
    """Write a finished run of the study, as trainings on CamVid leave it."""
    store_run(folder, quality, seed, lr)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    data = {"name": "folder", "root": "/data/camvid"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"steps": steps, "data": data, "resume": "auto"}))
    (folder / "result.json").write_text(json.dumps({"finished": True, "steps": steps, "train_minutes": 9.5, "params": 1000}))
    environment = {"git": {"commit": "0" * 40, "changed": False}, "machine": {"threads": 1}, "versions": {"segzoo": "0.2.0"}}
    (folder / "env.json").write_text(json.dumps(environment))
    (folder / "eval" / "env.json").write_text(json.dumps(environment | {"versions": {"segzoo": "0.3.0"}}))
    return folder


def keep_runs(root: Path, **qualities: float) -> dict[str, list[KeptRun]]:
    """Keep a row of two seeds for each quality."""
    for row, quality in qualities.items():
        for seed in range(2):
            run = finish_run(root / "runs" / f"{row}-{seed}", quality, seed, lr=quality)  # rows differ in a setting
            keep_evaluation("history", run, run / "eval", "python -m benchmarks accuracy/history <out>")
    return {row: history.kept_runs(row, "history", range(2)) for row in qualities}


def test_kept_evaluations_compare_as_their_runs_do(root):
    rows = keep_runs(root, icnet=0.8, pspnet=1.4)
    kept = compare_evaluations([run.evaluation for own in rows.values() for run in own])
    (root / "runs").rename(root / "moved")  # they need no run
    compared = compare_evaluations(find_evaluations([str(root / "moved")]))
    assert [model["name"] for model in kept["models"]] == ["icnet", "pspnet"]
    for ours, theirs in zip(kept["models"], compared["models"], strict=True):
        assert {**ours, "evaluations": None} == {**theirs, "evaluations": None}
    assert kept["pairs"] == compared["pairs"]
    assert kept_names("history") == ["icnet-0", "icnet-1", "pspnet-0", "pspnet-1"]


def test_a_kept_evaluation_names_its_training_without_paths(root):
    run = keep_runs(root, icnet=0.8)["icnet"][1]
    config = run.training["config"]
    assert config["seed"] == 1 and config["data"] == {"name": "folder"} and not {"out", "resume"} & {*config}
    assert run.training["machine"] == {"threads": 1} and run.training["result"]["train_minutes"] == 9.5
    assert run.evaluation.version == "0.3"  # that scored, whatever keeps it
    assert str(root) not in (root / "results/history/icnet-1.json").read_text()


def test_commands_are_kept_without_the_path_of_their_directory():
    for typed in ("runs", "runs/", "./runs"):
        command = f"python -m benchmarks accuracy/history {typed} --runs-only"
        assert without_path(command, Path("runs")) == "python -m benchmarks accuracy/history <out> --runs-only"
    assert without_path("python -m benchmarks accuracy/history history", Path("history")).endswith(" accuracy/history <out>")


def test_an_evaluation_counts_as_kept_once_it_is_complete(root, monkeypatch):
    run = finish_run(root / "runs/icnet-0", 0.8, 0)
    monkeypatch.setattr(kept_evaluations, "write_result", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        keep_evaluation("history", run, run / "eval", "")
    assert not is_kept("history", "icnet-0") and kept_names("history") == []


def test_rows_of_kept_runs_have_the_scores_of_their_seeds(root):
    rows = keep_runs(root, icnet=0.8, pspnet=1.4)
    compared = history.compare(rows)
    assert [len(model["seeds"]) for model in compared["models"]] == [2, 2]
    for model, own in zip(compared["models"], rows.values(), strict=True):
        assert model["seeds"] == [run.evaluation.summary["miou"] for run in own]
    assert "changed_images" not in compared["pairs"][0]


def test_seeds_of_a_row_need_the_same_settings(root):
    rows = keep_runs(root, icnet=0.8, pspnet=1.4)
    other = finish_run(root / "other/icnet-1", 0.8, 1, lr=0.1)
    keep_evaluation("history", other, other / "eval", "")
    rows["icnet"] = history.kept_runs("icnet", "history", range(2))
    with pytest.raises(SystemExit, match="differ in more settings, which makes 3 models: icnet-0, icnet-1, pspnet"):
        history.compare(rows)


def test_kept_runs_of_another_length_are_rejected(root):
    run = finish_run(root / "runs/icnet-0", 0.8, 0, steps=240)
    keep_evaluation("history", run, run / "eval", "")
    with pytest.raises(SystemExit, match=r"icnet-0 is a run of 240 steps, and history has 2400. Remove its files"):
        history.kept_runs("icnet", "history", [0])


@pytest.mark.parametrize("path", KEPT, ids=str)
def test_committed_counts_give_the_committed_score(path):
    run = kept_run(str(path.parent), path.stem)
    assert run.evaluation.counts.shape == (run.evaluation.protocol["images"], 3, len(run.evaluation.classes))
    assert float(mean_iou(run.evaluation.counts.sum(0))) == pytest.approx(run.evaluation.summary["miou"], abs=1e-12)
    assert run.training["git"]["changed"] is False
