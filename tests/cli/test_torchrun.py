"""The train tool under torchrun: one run directory, scores that one process confirms, and a rank that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
WORDS = [
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
def test_two_ranks_score_what_one_process_scores(tmp_path):
    words = [*RUN, *WORDS, *SMALL, "model=pspnet", "data=parts", "steps=6", "precision=fp32", f"out={tmp_path / 'run'}"]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("new run:") == 1
    told = json.loads((tmp_path / "run/eval/summary.json").read_text())
    words = [sys.executable, "tools/eval.py", f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'eval'}", "device=cpu"]
    checked = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    found = json.loads((tmp_path / "eval/summary.json").read_text())
    assert found["images"] == told["images"] == 5
    assert found["checkpoint_sha256"] == told["checkpoint_sha256"]
    assert found["miou"] == told["miou"] and found["per_class"] == told["per_class"]


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(word) for word in found]


@pytest.mark.crash
@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_run_finishes(tmp_path):
    out = tmp_path / "run"
    steps = ["model=icnet_half", "data=parts", "steps=40", "save_every=2", "eval_every=20", f"out={out}"]
    words = [*RUN, "--max-restarts=1", *WORDS, *SMALL, *steps]
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        until = time.time() + 120
        while not (out / "checkpoints/4/manifest.json").exists() and running.poll() is None and time.time() < until:
            time.sleep(0.05)
        victim = children_of(running.pid)[-1]
        os.kill(victim, signal.SIGKILL)
        assert running.wait(240) == 0, (tmp_path / "log").read_text()
    text = (tmp_path / "log").read_text()
    assert "resumed at step" in text
    assert json.loads((out / "result.json").read_text())["finished"] is True
    assert (out / "checkpoints/40/manifest.json").exists()
