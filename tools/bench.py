"""Benchmark a model: ``python tools/bench.py model=icnet_half runtime=openvino precision=bf16``.

Reports the milliseconds per image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segzoo.cli.app import Job, run


def bench(job: Job) -> dict[str, Any]:
    """Benchmark one job in a subprocess.

    Returns:
        Its table row, which has the error if the runtime failed. Outside of a sweep that is the ``exit_code`` 1.
    """
    from segzoo.runs.output_dir import create_output_dir
    from segzoo.workflows.benchmark.report import write_tables

    if job.output_dir is not None:
        return {"row": _measure(job)}
    title = f"{job.choices.get('model') or 'checkpoint'}-{job.choices['runtime']}"
    # create the directory first, so that an error in ``out`` does not waste minutes of measuring
    with create_output_dir("bench", title, job.recorded, **job.arguments["create_output_dir"]) as output_dir:
        row = _measure(job)
        table = write_tables(output_dir.path, [row])
    print(table)
    return {"row": row, "exit_code": int("ms_per_image" not in row)}


def _measure(job: Job) -> dict[str, Any]:
    """Measure a job.

    Its row names model, backbone and runtime as the command line does.
    """
    from segzoo.checkpoints.exported_files import find_exported_file
    from segzoo.workflows.benchmark.runner import run_in_subprocess

    config, ckpt = job.config, job.config.get("ckpt")
    what = ckpt if ckpt and find_exported_file(ckpt) else _describe(config)
    print(f"measuring {what}: starting and building, then up to {config['max_seconds']:g} s of calls", flush=True)
    names = {group: name for group, name in job.choices.items() if group in ("model", "backbone", "runtime") and name is not None}
    row: dict[str, Any] = run_in_subprocess(config)
    if "file" not in row:  # an exported file knows its own
        row |= names
    if job.output_dir is not None:
        done = f"{row['ms_per_image']['p50']:.1f} ms per image" if "ms_per_image" in row else row["error"]
        print(f"job {job.output_dir.name}: {done}", flush=True)
    return row


def _describe(config: Mapping[str, Any]) -> str:
    """Describe what is measured, and in which runtime."""
    subject = config["model"]["name"] if config.get("model") else config["ckpt"]
    return f"{subject} in {config['runtime']['name']}, {config['precision']}"


def announce(jobs: Sequence[Mapping[str, Any]]) -> str:
    """Estimate how long a sweep takes, in one line.

    Starting and building take from 10 seconds (eager) to a minute (int8), and a job stops early once its median is precise.
    """
    least, most = (math.ceil(sum(job["max_seconds"] * share + start for job in jobs) / 60) for share, start in ((0.1, 10), (1, 60)))
    return f"{len(jobs)} jobs, which take about {least} to {most} minutes"


def summarize(sweep_dir: Path) -> str:
    """Write table, ``bench.json`` and HTML page of a sweep.

    Returns:
        The table as Markdown.
    """
    from segzoo.workflows.benchmark.report import write_tables

    results = [json.loads(path.read_text(encoding="utf-8")) for path in sweep_dir.glob("*/result.json")]
    jobs = sorted(results, key=lambda result: result["job"])
    return write_tables(sweep_dir, [job.get("row") or {"error": job.get("error"), **job} for job in jobs])


def main() -> None:
    """Entry point of the console script ``segzoo-bench``."""
    run(bench, "bench", summarize, announce)


if __name__ == "__main__":
    main()
