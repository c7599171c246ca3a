"""What the tools that train share: a GPU for each job of a sweep, and what a step will need in a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def take_gpu(given: dict[str, Any]) -> None:
    """Gives a job of a sweep a GPU of its own where there are several."""
    import torch

    from segzoo.config.commands import words_for
    from segzoo.runs.locks import claim_gpu

    count = torch.cuda.device_count() if given["device"] != "cpu" else 0
    if count > 1:
        torch.cuda.set_device(claim_gpu(count, **words_for(claim_gpu, given)))


def rehearsed(parts: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Finds out and prints what a step will need; of the pruned network, where every step runs on that."""
    from segzoo.config.commands import words_for
    from segzoo.distributed import ALONE
    from segzoo.runs.run_dir import Run
    from segzoo.training.loop import train
    from segzoo.workflows.prune.target_search import settle

    if parts.pruner is not None and parts.pruner.start == 0:
        with TemporaryDirectory() as folder:
            settle(parts, Path(folder), ALONE, **words_for(settle, given))
    needs = train(parts, Run(Path()), **words_for(train, given))
    print(needed(needs, given["batch_size"]))
    return needs


def needed(needs: Mapping[str, Any], batch_size: int) -> str:
    """What ``dry=true`` found out, in a line."""
    line = "a step needs about {peak_gb:.2f} of {have_gb:.1f} GB and {step_s:.2f} s; the run {hours:.2f} hours without evaluations".format(
        **needs
    )
    return line if needs["fits"] else f"{line}. It does not fit: batch_size={needs['batch_size']} would, instead of {batch_size}"
