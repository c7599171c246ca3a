"""Runs of the command-line tools and the files they leave behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness.result_files import ROOT, read_json
from segzoo.workflows.prune.stages import benchmark_before_after

CAMVID_CROPS = ("augment.crop=[240,320]", "num_val_images=0")
CAMVID_FINETUNING = (*CAMVID_CROPS, "optim.lr=0.001", "schedule.warmup=30")  # of a pruned network
NO_REPORT = ("sensitivity=false", "bench_runtimes=[]")  # benchmarks time the networks themselves, once all of them are trained
SHARED_KEYS = ("machine", "versions", "git", "weights", "settings")  # the result file holds them once


def run_tool(tool: str, *overrides: str, quiet: bool = False) -> None:
    """Run ``tools/<tool>.py`` from the checkout, as a user would.

    Raises:
        subprocess.CalledProcessError: The tool failed.
    """
    command = [sys.executable, f"tools/{tool}.py", *overrides]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL if quiet else None)


def train_or_continue(run: Path, *overrides: str) -> dict[str, Any]:
    """Train, or continue an interrupted run of the same settings.

    Returns:
        The ``result.json`` of the run.
    """
    run_tool("train", *overrides, "save_every=50", "resume=auto", f"out={run}", quiet=True)
    return run_summary(run)


def run_unless_finished(result: Path, tool: str, *overrides: str) -> Any:
    """Run a tool that writes a result file, unless the file exists.

    Returns:
        The content of the file.
    """
    if not result.exists():
        run_tool(tool, *overrides, f"out={result.parent}")
    return read_json(result)


def run_summary(run: Path) -> dict[str, Any]:
    """Return the ``result.json`` of a run directory."""
    return read_json(run / "result.json")


def run_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a run directory, without its paths."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["data"].pop("root", None)
    return {key: value for key, value in config.items() if key not in ("out", "resume")}


def run_environment(run: Path) -> dict[str, Any]:
    """Return the ``env.json`` of a run directory."""
    return read_json(run / "env.json")


def latency_by_run(runs: dict[str, Path], hw: tuple[int, int]) -> dict[str, list[dict[str, Any]]]:
    """Measure the latency of one image per run and runtime."""
    rows_by_run = benchmark_before_after({name: str(run) for name, run in runs.items()}, bench_hw=hw)
    return {name: [{k: v for k, v in row.items() if k not in SHARED_KEYS} for row in rows] for name, rows in rows_by_run.items()}
