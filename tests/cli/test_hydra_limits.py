"""Command lines and user files run nothing and print plain messages."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from argparse import Namespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from segzoo.cli.app import _needs_hydra, reject_invalid
from segzoo.cli.compose import resolve_config
from segzoo.cli.console import print_plain_messages
from segzoo.cli.hydra_limits import flag_errors
from segzoo.cli.overrides import parse_overrides
from segzoo.registry import ConfigError


def errors_of(*overrides: str, **options) -> str:
    with pytest.raises(ConfigError) as error:
        reject_invalid(parse_overrides("train", overrides, **options), "train")
    return str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "hydra/job_logging=stdout",
        "hydra/hydra_logging=default",
        "hydra.job_logging.root={}",
        "+hydra.callbacks.x._target_=os.system",
        "hydra.callbacks={x:{_target_:os.system}}",
        "hydra.searchpath=[file:///tmp]",
        "hydra.job.env_set={LD_PRELOAD:x}",
        "+hydra.job.env_set.LD_PRELOAD=x",
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_=os.system",
    ],
)
def test_features_that_run_code_are_rejected(override):
    key = override.lstrip("+").partition("=")[0]
    assert errors_of(override).startswith(f"{key} cannot be set:")


FILES = {
    "hydra/job_logging/evil.yaml": "version: 1\nhandlers: {x: {class: logging.FileHandler, filename: PWNED}}\nroot: {handlers: [x]}\n",
    "hydra/launcher/evil.yaml": "_target_: os.system\n",
    "experiment/callbacks.yaml": "# @package _global_\nhydra: {callbacks: {x: {_target_: os.system}}}\n",
    "experiment/env.yaml": "# @package _global_\nhydra: {job: {env_set: {PATH: x}}}\n",
    "experiment/logging.yaml": "# @package _global_\nhydra: {job_logging: {handlers: {x: {class: logging.FileHandler, filename: PWNED}}}}\n",
}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("experiment=callbacks", "hydra.callbacks is set by a configuration file"),
        ("experiment=env", "hydra.job.env_set is set by a configuration file"),
        ("experiment=logging", "hydra.job_logging is set by a configuration file"),
        ("hydra/launcher=evil", "hydra.launcher names os.system, which is not an installed plugin"),
    ],
)
def test_a_users_file_uses_no_feature_that_runs_code(tmp_path, override, expected):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert expected in errors_of(override, config_dir=str(tmp_path))


def test_flags_that_replace_the_configuration_are_rejected():
    flags = {"config_path": "x", "config_name": None, "experimental_rerun": "y"}
    assert [error.split()[0] for error in flag_errors(Namespace(**flags))] == ["--config-path", "--experimental-rerun"]


def test_a_broken_file_stops_only_commands_that_use_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gbk.yaml").write_bytes("classes: [背景]".encode("gbk"))
    (tmp_path / "data" / "mine.yaml").write_text("defaults: [folder]\nroot: .\nclasses: [a, b]\n")
    (tmp_path / "data" / "bare.yaml").write_text("root: .\nclasses: [a, b]\n")
    parsed = parse_overrides("train", ["data=mine"], config_dir=str(tmp_path))
    assert not parsed.errors and parsed.jobs[0].data.root == "."
    assert "gbk.yaml is not valid YAML" in errors_of("data=gbk", config_dir=str(tmp_path))
    assert "data has no name" in (message := errors_of("data=bare", config_dir=str(tmp_path))) and "defaults: [<name>]" in message


def test_a_home_directory_is_expanded_in_every_setting(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    overrides = [
        'out="~/out"',
        'init.ckpt="~/w.pth"',
        "data=folder",
        'data.root="~/set"',
        "data.classes=[~a,b]".replace("~a", '"~a"'),
    ]
    config = resolve_config(parse_overrides("train", overrides).jobs[0])[0]
    assert (config["out"], config["init"]["ckpt"], config["data"]["root"]) == ("/home/me/out", "/home/me/w.pth", "/home/me/set")
    assert config["data"]["classes"] == ["~a", "b"]


def test_out_in_a_sweep_names_the_setting_of_the_sweep():
    message = errors_of("seed=0,1", "out=my runs", sweep=True)
    assert (
        message
        == "out=my runs: each job of a sweep has its own directory. Set the directory of the sweep: 'hydra.sweep.dir=\"my runs\"'"
    )


def test_a_failed_job_and_a_warning_print_one_line(monkeypatch, capsys):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(JobReturn, "return_value", JobReturn.return_value)
    print_plain_messages()
    job = JobReturn(overrides=["seed=1"], status=JobStatus.FAILED)
    job.return_value = ConfigError("no")
    with pytest.raises(ConfigError, match="no"):
        print(job.return_value)
    assert warnings.formatwarning("two\n  lines", UserWarning, "torch/nn.py", 7) == "warning: two lines\n"
    assert capsys.readouterr().err == "" and os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_overrides_of_a_failed_job_are_shown_on_request(tmp_path, full):
    command = [sys.executable, "-m", "segzoo.tools.eval", f"ckpt={tmp_path / 'a.safetensors'}"]
    (tmp_path / "a.safetensors").write_bytes(b"")
    environment = os.environ | ({"HYDRA_FULL_ERROR": "1"} if full else {})
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert process.returncode == 1 and ("Error executing job" in process.stderr) == full


def test_hydra_runs_only_jobs_that_need_it():
    """It would compose the configuration once more."""

    def needs_hydra(*overrides: str) -> bool:
        return _needs_hydra(parse_overrides("leaderboard", overrides).jobs[0])

    assert not needs_hydra("sort=miou")
    assert needs_hydra("hydra.job.chdir=true") and needs_hydra("hydra.run.dir=runs") and needs_hydra("hydra.verbose=true")
