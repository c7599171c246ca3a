"""Pages that tools/train.py, tools/eval.py and tools/prune.py write."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parsed_page import check_page
from ranks import HELPERS, run_ranks
from tool_jobs import job

from segzoo.loggers.group import LoggerGroup
from segzoo.training.context import TrainingContext

pytestmark = pytest.mark.integration

TINY = ["workers=0", "batch_size=2", "precision=fp32", "device=cpu"]
DATA = ["data.train_images=4", "data.val_images=3", "data.height=64", "data.width=96"]
MODEL = ["model=icnet", "backbone.width=0.125", "augment=none", "num_val_images=0", "log_every=1"]


def run_tool(command: str, *overrides: str) -> dict:
    tool = importlib.import_module(f"segzoo.tools.{command}")
    return getattr(tool, {"eval": "evaluate"}.get(command, command))(
        job(command, *TINY[: 4 if command != "eval" else 0], *overrides)
    )


def text_of(folder: Path) -> str:
    return " ".join(check_page((folder / "report.html").read_text(encoding="utf-8")).text.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training, the files that its loggers got, and its page."""
    run, patch, files = tmp_path_factory.mktemp("pages") / "run", pytest.MonkeyPatch(), []
    patch.setattr(LoggerGroup, "results", lambda group, result: files.extend(path.name for path in run.glob("report.*")))
    try:
        run_tool("train", *MODEL, *DATA, "steps=2", f"out={run}")
    finally:
        patch.undo()
    return run, files, text_of(run)


def test_a_training_writes_its_page_before_its_loggers_get_the_files(trained):
    run, files, text = trained
    summary = json.loads((run / "eval/summary.json").read_text())
    assert files == ["report.html"]
    for part in (
        "icnet-resnet50-parts",
        f"mIoU {100 * summary['miou']:.1f} %",
        summary["protocol_id"],
        summary["checkpoint_sha256"],
    ):
        assert part in text
    for part in ("Learning rate", "too few images for intervals", "All images", "for 2 steps, 4 images", "GMACs at 64x96"):
        assert part in text
    assert "model.name" not in text and "data.train_images" in text and "python " in text


# a training that records which pages it writes, and dies while it writes one if asked to
SCRIPT = """
import importlib, json, os, signal
from tool_jobs import job
from segzoo.workflows.report import page

written, write_text = [], page.write_text

def write(path, text):
    written.append(path.name)
    if {dies}:
        os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
    write_text(path, text)

page.write_text = write
importlib.import_module("segzoo.tools.train").train(job("train", *{words}))
print(json.dumps(written))
"""


def test_rank_0_alone_writes_the_page(tmp_path):
    words = [*TINY, *MODEL, *DATA, "steps=1", f"out={tmp_path / 'run'}"]
    outputs = run_ranks(SCRIPT.format(dies=False, words=words))
    assert [json.loads(output.splitlines()[-1]) for output in outputs] == [["report.html"], []]
    assert "for 1 steps, 4 images" in text_of(tmp_path / "run")


@pytest.mark.crash
def test_a_kill_leaves_no_half_page_and_the_next_run_writes_it(tmp_path):
    run, words = tmp_path / "run", [*MODEL, *DATA, "steps=1", f"out={tmp_path / 'run'}"]
    code = SCRIPT.format(dies=True, words=[*TINY, *words])
    command, environment = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": str(HELPERS)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not (run / "report.html").exists() and len(list(run.glob("*.tmp.*"))) == 1
    run_tool("train", *words, "resume=auto")
    assert "for 1 steps, 2 images" in text_of(run) and not list(run.glob("*.tmp.*"))


def test_a_resumed_run_writes_its_page_again(trained, tmp_path, monkeypatch):
    run, interrupted = tmp_path / "run", TrainingContext.evaluate
    words = [*MODEL, *DATA, "steps=2", f"out={run}"]
    monkeypatch.setattr(TrainingContext, "evaluate", lambda context: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_tool("train", *words)
    assert not (run / "report.html").exists()
    monkeypatch.setattr(TrainingContext, "evaluate", interrupted)
    run_tool("train", *words, "resume=auto")
    assert "for 2 steps, 4 images" in text_of(run)
    words[words.index("steps=2")] = "steps=3"
    run_tool("train", *words, "resume=auto", "report=false")
    assert not (run / "report.html").exists(), "the page was that of the shorter run"


def test_a_training_never_fails_because_of_its_page(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("no page")

    monkeypatch.setattr("segzoo.workflows.report.run_page.training_sections", fail)
    result = run_tool("train", *MODEL, *DATA, "steps=1", f"out={tmp_path / 'run'}")
    assert result["finished"] and "was not written: ValueError: no page" in capsys.readouterr().err
    assert json.loads((tmp_path / "run/result.json").read_text())["finished"]


def test_the_page_of_a_finished_run_can_be_made_again(trained, tmp_path):
    run, _, text = trained
    out = tmp_path / "out"
    run_tool(
        "eval",
        f"ckpt={run}",
        f"out={out}",
        "device=cpu",
        "workers=0",
        "scores=[trimap,calibration,blobs]",
        "defects=[dent,scratch]",
    )
    again = text_of(out)
    for part in (
        "Learning rate",
        "commit of the training",
        "Reliability",
        "Around boundaries",
        "Operating curve of",
        "data.train_images",
    ):
        assert part in again
    assert text[text.index("Confusions Each row") : text.index("What goes wrong most The")] in again, "the same confusion matrix"
    assert (np.load(out / "per_image_errors.npy") == np.load(run / "eval/per_image_errors.npy")).all()


def test_a_pruning_shows_both_networks_and_the_result(trained, tmp_path):
    run = trained[0]
    fast = ["bench_runtimes=[]", "bench_hw=[64,96]", "augment=none", "num_val_images=0", "steps=1", "sensitivity=false"]
    run_tool("prune", f"ckpt={run}", *fast, "pruner.keep_ratio=0.5", f"out={tmp_path / 'cut'}")
    text = text_of(tmp_path / "cut")
    for part in (
        "Before and after",
        "GMACs at 64x96",
        "fine-tuned",
        "The result",
        "Learning rate",
        "Confusions",
        "data.train_images",
    ):
        assert part in text
