"""Sweeps write a table with every job, even failed ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import TINY_RUN

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_failing_job_keeps_the_other_rows(tmp_path):
    overrides = ["-m", "model=icnet_half", "backbone=vgg16,resnet50_deep", *TINY_RUN, f"hydra.sweep.dir={tmp_path}"]
    process = subprocess.run([sys.executable, "tools/train.py", *overrides], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["backbone"] for row in rows] == ["vgg16", "resnet50_deep"]
    assert "width" in rows[0]["error"] and "miou" not in rows[0]
    assert rows[1]["miou"] >= 0 and rows[1]["params"] > 0 and rows[1]["train_minutes"] >= 0
    table = (tmp_path / "table.md").read_text()
    assert table in process.stdout and "resnet50_deep" in table


def sweep(directory: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/train.py", "-m", *TINY_RUN, f"hydra.sweep.dir={directory}", *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


MODELS = ("model=icnet_half,pspnet,fcn_dilated", "backbone=resnet50", "backbone.width=0.125")


def interrupt(directory: Path) -> dict[str, float]:
    """Make a finished sweep look like one killed in its second job.

    Returns:
        The modification times of the other jobs' last checkpoints.
    """
    (directory / "1" / "result.json").unlink()
    for name in ("1", "best", "last"):
        path = directory / "1" / "checkpoints" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {job: (directory / job / "checkpoints" / "1" / "manifest.json").stat().st_mtime for job in ("0", "2")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "submitit_local", "joblib"])
def test_a_restarted_sweep_runs_only_the_missing_jobs(tmp_path, launcher):
    if launcher != "basic":
        package = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
        pytest.importorskip(package, reason=f'pip install "segzoo[{"slurm" if "submitit" in launcher else launcher}]"')
    overrides = (*MODELS, f"hydra/launcher={launcher}")
    first = sweep(tmp_path, *overrides)
    assert first.returncode == 0, first.stderr
    before = json.loads((tmp_path / "table.json").read_text())
    times = interrupt(tmp_path)
    again = sweep(tmp_path, *overrides)
    assert again.returncode == 0, again.stderr
    after = json.loads((tmp_path / "table.json").read_text())
    assert [row["model"] for row in after] == ["icnet_half", "pspnet", "fcn_dilated"]
    assert [row["miou"] for row in after] == [row["miou"] for row in before]
    assert {job: (tmp_path / job / "checkpoints" / "1" / "manifest.json").stat().st_mtime for job in times} == times
    assert (tmp_path / "1" / "checkpoints" / "1" / "manifest.json").exists()
