"""The tools under torchrun: scores, label maps and a killed rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from small_exports import CONFIG, NoiseData, export_wrapper

from segzoo.checkpoints.writing import save_checkpoint
from segzoo.data.datasets.parts import INFO
from segzoo.models._base import SegModel

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
OVERRIDES = [
    "tools/train.py",
    "device=cpu",
    "workers=1",
    "batch_size=2",
    "data.train_images=12",
    "data.val_images=5",
    "num_val_images=0",
]
SMALL = ["data.height=96", "data.width=128", "backbone=resnet50", "backbone.width=0.25"]


@pytest.mark.slow
def test_two_ranks_and_one_process_compute_the_same_scores(tmp_path):
    command = [*RUN, *OVERRIDES, *SMALL, "model=pspnet", "data=parts", "steps=6", "precision=fp32", f"out={tmp_path / 'run'}"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("new run:") == 1
    trained = json.loads((tmp_path / "run/eval/summary.json").read_text())
    command = [sys.executable, "tools/eval.py", f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'eval'}", "device=cpu"]
    evaluation = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert evaluation.returncode == 0, evaluation.stderr
    evaluated = json.loads((tmp_path / "eval/summary.json").read_text())
    assert evaluated["images"] == trained["images"] == 5
    assert evaluated["checkpoint_sha256"] == trained["checkpoint_sha256"]
    assert evaluated["miou"] == trained["miou"] and evaluated["per_class"] == trained["per_class"]


@pytest.mark.slow
def test_two_ranks_evaluate_and_predict_like_one_process(tmp_path):
    model = export_wrapper(num_classes=len(INFO.classes)).model
    assert isinstance(model, SegModel)
    save_checkpoint(tmp_path / "run", 1, model, {}, CONFIG | {"loss": {"name": "cross_entropy"}}, INFO, {})
    (tmp_path / "images").mkdir()
    for index in range(3):
        Image.fromarray(NoiseData().image(index)).save(tmp_path / f"images/{index}.png")
    for name, start in (("one", [sys.executable]), ("two", RUN)):
        for tool, options in (("eval", ["workers=0"]), ("predict", [f"source={tmp_path / 'images'}", "overlays=none"])):
            arguments = [
                f"tools/{tool}.py",
                f"ckpt={tmp_path / 'run/checkpoints/1'}",
                "device=cpu",
                f"out={tmp_path / name / tool}",
                *options,
            ]
            process = subprocess.run([*start, *arguments], cwd=ROOT, capture_output=True, text=True)
            assert process.returncode == 0, process.stderr
            assert process.stdout.count("output directory") == 1
    for file in ("eval/summary.json", "eval/per_image.csv", *(f"predict/labels/{index}.png" for index in range(3))):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    assert json.loads((tmp_path / "two/predict/predict.json").read_text())["images"] == 3


def children_of(pid: int) -> list[int]:
    pids = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in pids]


@pytest.mark.crash
@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_the_run_finishes(tmp_path):
    out = tmp_path / "run"
    steps = ["model=icnet_half", "data=parts", "steps=40", "save_every=2", "eval_every=20", f"out={out}"]
    command = [*RUN, "--max-restarts=1", *OVERRIDES, *SMALL, *steps]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.time() + 120
        while not (out / "checkpoints/4/manifest.json").exists() and process.poll() is None and time.time() < deadline:
            time.sleep(0.05)
        rank_pid = children_of(process.pid)[-1]
        os.kill(rank_pid, signal.SIGKILL)
        assert process.wait(240) == 0, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "resumed at step" in text
    assert json.loads((out / "result.json").read_text())["finished"] is True
    assert (out / "checkpoints/40/manifest.json").exists()
