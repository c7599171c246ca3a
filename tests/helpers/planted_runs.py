"""Run directories and benchmarks with planted scores and times."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from planted_evaluations import store_evaluation

ENVIRONMENT = {"machine": {"cpu": "Test CPU", "gpu": None}, "versions": {}, "git": None}


def plant_run(
    folder: Path,
    quality: float,
    number: int = 0,
    result: dict[str, Any] | None = None,
    model: str = "icnet",
    data: str = "toy",
    **evaluation: Any,
) -> Path:
    """Write a run directory of a finished training.

    Args:
        folder: the run directory.
        quality, number, evaluation: as in ``store_evaluation``.
        result: replaces the contents of ``result.json``.
        model, data: names in the configuration.
    """
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last").write_text("40\n")
    config = {"model": {"name": model}, "backbone": {"name": "resnet50"}, "data": {"name": data}, "seed": number}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "result.json").write_text(json.dumps(result or {"finished": True, "miou": 0.5, "params": 1_500_000 + number}))
    store_evaluation(folder / "eval", quality, number, **evaluation)
    return folder


def bench_row(number: int, ms: float, **changes: Any) -> dict[str, Any]:
    """Row of ``bench.json`` for the checkpoint of ``plant_run(..., number)``."""
    row = {
        "runtime": "eager",
        "precision": "fp32",
        "device": "cpu",
        "threads": 2,
        "hw": [480, 640],
        "batch": 1,
        "scope": "net+labels",
    }
    times = {"p50": ms, "p90": 1.1 * ms, "p99": 1.2 * ms}
    return row | ENVIRONMENT | {"weights": f"{number:064}", "params": 1_500_000, "gmacs": 2.5, "ms_per_image": times} | changes


def plant_times(folder: Path, *rows: dict[str, Any], time: str = "2026-01-01T00:00:00") -> Path:
    """Write the output directory of a benchmark."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}\n")
    (folder / "bench.json").write_text(json.dumps(rows))
    (folder / "env.json").write_text(json.dumps({"time": time}))
    return folder
