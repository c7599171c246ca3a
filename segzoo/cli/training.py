"""What the tools that train share: a GPU for each job of a sweep, and what a step will need in a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def assign_gpu(given: dict[str, Any]) -> None:
    """Gives a job of a sweep a GPU of its own where there are several."""
    import torch

    from segzoo.config.commands import arguments_for
    from segzoo.runs.locks import claim_gpu

    count = torch.cuda.device_count() if given["device"] != "cpu" else 0
    if count > 1:
        torch.cuda.set_device(claim_gpu(count, **arguments_for(claim_gpu, given)))


def run_dry(parts: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Finds out and prints what a step will need; of the pruned network, where every step runs on that."""
    from segzoo.config.commands import arguments_for
    from segzoo.distributed import SINGLE_PROCESS
    from segzoo.runs.run_dir import RunDir
    from segzoo.training.loop import train
    from segzoo.workflows.prune.target_search import resolve_keep_ratio

    if parts.pruner is not None and parts.pruner.start == 0:
        with TemporaryDirectory() as folder:
            resolve_keep_ratio(parts, Path(folder), SINGLE_PROCESS, **arguments_for(resolve_keep_ratio, given))
    needs = train(parts, RunDir(Path()), **arguments_for(train, given))
    print(format_requirements(needs, given["batch_size"]))
    return needs


def format_requirements(needs: Mapping[str, Any], batch_size: int) -> str:
    """What ``dry_run=true`` found out, in a line."""
    line = "a step needs about {peak_gb:.2f} of {have_gb:.1f} GB and {step_s:.2f} s; the run {hours:.2f} hours without evaluations".format(
        **needs
    )
    return line if needs["fits"] else f"{line}. It does not fit: batch_size={needs['batch_size']} would, instead of {batch_size}"
