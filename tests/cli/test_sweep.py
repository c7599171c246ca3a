"""A sweep from the command line: every job leaves its row, a failed one too, and the table is written whatever happens."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    "steps=1",
    "batch_size=2",
    "workers=0",
    "num_val_images=0",
    "data.train_images=2",
    "data.val_images=2",
    "data.height=64",
    "data.width=64",
]


@pytest.mark.slow
def test_a_failing_job_loses_no_other_row(tmp_path):
    words = ["-m", "model=icnet_half", "backbone=vgg16,resnet50_deep", *SMALL, f"hydra.sweep.dir={tmp_path}"]
    answer = subprocess.run([sys.executable, "tools/train.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 1
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["backbone"] for row in rows] == ["vgg16", "resnet50_deep"]
    assert "width" in rows[0]["error"] and "miou" not in rows[0]
    assert rows[1]["miou"] >= 0 and rows[1]["params"] > 0 and rows[1]["train_minutes"] >= 0
    table = (tmp_path / "table.md").read_text()
    assert table in answer.stdout and "resnet50_deep" in table


def sweep(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/train.py", "-m", *SMALL, f"hydra.sweep.dir={folder}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


MODELS = ("model=icnet_half,pspnet,fcn_dilated", "backbone=resnet50", "backbone.width=0.125")


def interrupt(folder: Path) -> dict[str, float]:
    """Makes a finished sweep look as if it had been killed in its second job; when the other jobs' best was written."""
    (folder / "1" / "result.json").unlink()
    for name in ("1", "best", "last"):
        path = folder / "1" / "checkpoints" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {job: (folder / job / "checkpoints" / "1" / "manifest.json").stat().st_mtime for job in ("0", "2")}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "submitit_local", "joblib"])
def test_a_sweep_started_again_finishes_only_what_was_missing(tmp_path, launcher):
    if launcher != "basic":
        package = f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher"
        pytest.importorskip(package, reason=f'pip install "segzoo[{"slurm" if "submitit" in launcher else launcher}]"')
    words = (*MODELS, f"hydra/launcher={launcher}")
    first = sweep(tmp_path, *words)
    assert first.returncode == 0, first.stderr
    before = json.loads((tmp_path / "table.json").read_text())
    times = interrupt(tmp_path)
    again = sweep(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    after = json.loads((tmp_path / "table.json").read_text())
    assert [row["model"] for row in after] == ["icnet_half", "pspnet", "fcn_dilated"]
    assert [row["miou"] for row in after] == [row["miou"] for row in before]
    assert {job: (tmp_path / job / "checkpoints" / "1" / "manifest.json").stat().st_mtime for job in times} == times
    assert (tmp_path / "1" / "checkpoints" / "1" / "manifest.json").exists()
