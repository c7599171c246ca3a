"""Measure milliseconds an image: ``python tools/bench.py model=icnet_half runtime=openvino precision=bf16``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segzoo.cli.app import Job, run


def bench(job: Job) -> dict[str, Any]:
    """Measures one job in a process of its own; returns its row, which says why if the runtime was not able."""
    from segzoo.config.commands import arguments_for
    from segzoo.runs.open_run import create_output_dir
    from segzoo.workflows.benchmark.report import write_tables

    if job.output_dir is not None:
        return {"row": _row(job)}
    title, words = (
        f"{job.choices.get('model') or 'checkpoint'}-{job.choices['runtime']}",
        arguments_for(create_output_dir, job.config),
    )
    with create_output_dir("bench", title, job.config, **words) as folder:  # before minutes of measuring, not after
        row = _row(job)
        print(write_tables(folder, [row]))
    return {"row": row}


def _row(job: Job) -> dict[str, Any]:
    """What is measured, by the names it was picked by."""
    from segzoo.workflows.benchmark.runner import run_in_subprocess

    named = {group: name for group, name in job.choices.items() if group in ("model", "backbone", "runtime") and name is not None}
    return run_in_subprocess(job.config) | named


def gather(folder: Path) -> str:
    """The table over a sweep's jobs; also writes ``bench.json`` and a page."""
    import json

    from segzoo.workflows.benchmark.report import write_tables

    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/result.json")]
    jobs = sorted(found, key=lambda result: result["job"])
    return write_tables(folder, [job.get("row") or {"error": job.get("error"), **job} for job in jobs])


def main() -> None:
    """The console script ``segzoo-bench``."""
    run(bench, "bench", gather)


if __name__ == "__main__":
    main()
