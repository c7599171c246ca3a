"""Steps that the training tools share: a GPU per sweep job, the run directory, the dry run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from segzoo.cli.app import Job

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents


def assign_gpu(job: Job) -> None:
    """Give a sweep job a GPU of its own if there are several."""
    import torch

    from segzoo.runs.locks import claim_gpu

    count = torch.cuda.device_count() if job.config["device"] != "cpu" else 0
    if job.output_dir is not None and count > 1:
        torch.cuda.set_device(claim_gpu(count, **job.arguments["claim_gpu"]))


def run_location(job: Job) -> dict[str, Any]:
    """Return ``out`` and ``resume``; a sweep job that is started again resumes in its own directory."""
    given = job.arguments["open_run"]
    if job.output_dir is None:
        return given
    return {"out": str(job.output_dir), "resume": "auto" if given["resume"] == "none" else given["resume"]}


def run_dry(job: Job, components: TrainingComponents) -> dict[str, Any]:
    """Estimate and print what a training step needs, after any pruning that comes before the first step."""
    from segzoo.distributed import SINGLE_PROCESS
    from segzoo.runs.run_dir import RunDir
    from segzoo.training.components import TrainingSettings
    from segzoo.training.loop import train
    from segzoo.workflows.prune.target_search import resolve_keep_ratio

    if components.pruner is not None and components.pruner.start == 0:
        with TemporaryDirectory() as scratch:
            resolve_keep_ratio(components, Path(scratch), SINGLE_PROCESS, **job.arguments["resolve_keep_ratio"])
    needs = train(components, RunDir(Path()), TrainingSettings(**job.arguments["TrainingSettings"]))
    print(format_requirements(needs, job.config["batch_size"]))
    return needs


def format_requirements(needs: Mapping[str, Any], batch_size: int) -> str:
    """Format the result of ``dry_run=true`` as one line."""
    line = (
        f"a step needs about {needs['peak_gb']:.2f} of {needs['have_gb']:.1f} GB and {needs['step_s']:.2f} s; the run "
        f"{needs['hours']:.2f} hours without evaluations"
    )
    return line if needs["fits"] else f"{line}. It does not fit: use batch_size={needs['batch_size']} instead of {batch_size}"
