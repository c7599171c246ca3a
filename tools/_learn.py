"""What the tools that train share: a GPU for each job of a sweep, and what a step will need in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def take_gpu(given: dict[str, Any]) -> None:
    """Gives a job of a sweep a GPU of its own where there are several."""
    import torch

    from segzoo import config
    from segzoo.engine.slots import claim_gpu

    count = torch.cuda.device_count() if given["device"] != "cpu" else 0
    if count > 1:
        torch.cuda.set_device(claim_gpu(count, **config.words_for(claim_gpu, given)))


def needed(needs: Mapping[str, Any], batch_size: int) -> str:
    """What ``dry=true`` found out, in a line."""
    line = "a step needs about {peak_gb:.2f} of {have_gb:.1f} GB and {step_s:.2f} s; the run {hours:.2f} hours without evaluations".format(
        **needs
    )
    return line if needs["fits"] else f"{line}. It does not fit: batch_size={needs['batch_size']} would, instead of {batch_size}"
