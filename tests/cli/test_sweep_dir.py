"""The directory of a sweep."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.cli.sweeps import run_sweep, sweep_dir
from segzoo.registry import ConfigError


def test_sweeps_of_the_same_second_get_separate_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *args: "2026-01-02_03-04-05")
    first, second = sweep_dir(["optim.lr=1,2"], []), sweep_dir(["optim.lr=1,2"], [])
    assert (first.name, second.name) == ("2026-01-02_03-04-05", "2026-01-02_03-04-05-2") and first.is_dir()


@pytest.mark.parametrize("key", ["hydra.sweep.dir", "++hydra.sweep.dir"])
def test_a_typed_directory_is_that_of_the_composed_jobs(key):
    job = SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir="sw/2026")))
    assert str(sweep_dir([f"{key}=sw/${{now:%Y}}"], [job])) == "sw/2026"  # type: ignore[list-item]
    assert str(sweep_dir([f"{key}='sw/a b'"], [])) == "sw/a b"  # of a search


@pytest.mark.parametrize(
    ("folder", "problem"),
    [("file", "is not a directory"), ("file/x", "is not a directory"), ("run", "holds a run"), ("run/checkpoints/x", "is within")],
)
def test_a_sweep_writes_into_no_file_and_no_run(tmp_path, folder, problem):
    (tmp_path / "file").touch()
    (tmp_path / "run/checkpoints/5").mkdir(parents=True)
    (tmp_path / "run/result.json").write_text('{"finished": true}')
    with pytest.raises(ConfigError, match=rf"hydra\.sweep\.dir=.*{problem}.*hydra\.sweep\.dir"):
        sweep_dir([f"hydra.sweep.dir={tmp_path / folder}"], [])
    assert str(sweep_dir([f"hydra.sweep.dir={tmp_path}/run/sweep"], [])) == f"{tmp_path}/run/sweep"


def test_a_sweep_that_starts_no_job_leaves_no_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m"])
    (tmp_path / "sweep").mkdir()
    run_sweep(lambda: None, tmp_path / "sweep", lambda folder: pytest.fail("no table"))
    assert not (tmp_path / "sweep").exists() and sys.argv[-1] == f'hydra.sweep.dir="{tmp_path / "sweep"}"'


def test_variables_inside_lists_are_recorded_as_typed(monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2")
    words = ["data=folder", "data.root=x", "data.classes=[a,b]", 'data.images=["${oc.env:TOKEN}/{stem}.png","b/{stem}.png"]']
    config, recorded = resolve_config(parse_overrides("train", words).jobs[0])
    assert config["data"]["images"] == ["hunter2/{stem}.png", "b/{stem}.png"]
    assert recorded["data"]["images"] == ["${oc.env:TOKEN}/{stem}.png", "b/{stem}.png"]
