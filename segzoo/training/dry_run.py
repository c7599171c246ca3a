"""Memory: what a training will need, from one small step; and a message one can act on when there was not enough."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from segzoo.data.loader import train_batches
from segzoo.device import Precision, peak_memory
from segzoo.distributed import SINGLE_PROCESS
from segzoo.optim.ema import ModelEma
from segzoo.training.components import TrainingSettings
from segzoo.training.pruning import ScheduledPruning
from segzoo.training.step import TrainStep

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents

MEMORY_MARGIN = 0.92  # share of the memory that a proposal may fill


class OutOfMemory(RuntimeError):
    """The device has too little memory for the settings; the message proposes others."""


def estimate_resources(parts: TrainingComponents, plan: TrainingSettings, formats: Precision) -> dict[str, Any]:
    """Takes steps with few images and with twice as many, and says what a step of the whole batch will need.

    A pruner's stages that come before the first step are taken too. The weights are changed by it, so the run must not go on with them.
    On CUDA memory is what torch allocates, on a CPU what the process holds at its largest.

    Returns:
        ``peak_gb`` predicted, ``have_gb``, ``fits``, ``step_s`` predicted, ``hours`` of the whole run without evaluations, and the
        ``batch_size`` that would fit.
    """
    model = parts.model.to(formats.device).train()
    layout = torch.channels_last if plan.channels_last else torch.preserve_format
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    slimming, optimizer = ScheduledPruning(model, parts, plan.total, formats, SINGLE_PROCESS), parts.make_optimizer(model)
    while slimming.is_due(0):
        slimming.prune_(0, optimizer, ModelEma(model, None))
    stepper = TrainStep(model, model, optimizer, parts, plan, formats, SINGLE_PROCESS, slimming)
    peaks, seconds = [], []
    few = 2 if plan.batch_size >= 4 else 1
    for size in (few, 2 * few):
        stream = train_batches(parts.train_set, parts.augment, batch_size=size, workers=0, seed=plan.seed)
        for _ in range(2):  # the first one also makes the optimizer's moments and compiles kernels
            began = time.perf_counter()
            stepper([next(stream)], plan.log_every)
            seconds.append(time.perf_counter() - began)
        peaks.append(peak_memory(formats.device))
    each = max(0.0, peaks[1] - peaks[0]) / few
    predicted, have = max(peaks[0], peaks[1] + each * (plan.batch_size - 2 * few)), total_memory(formats.device)
    step = seconds[3] * plan.batch_size / (2 * few) * plan.grad_accum_steps
    return {
        "peak_gb": predicted / 1e9,
        "have_gb": have / 1e9,
        "fits": predicted <= MEMORY_MARGIN * have,
        "batch_size": largest_fitting_batch(plan.batch_size, predicted, each, have),
        "step_s": step,
        "hours": step * plan.total / 3600,
    }


def total_memory(device: torch.device) -> float:
    """The memory there is for this process, in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def largest_fitting_batch(batch: int, peak: float, each: float, have: float) -> int:
    """The largest batch, at most the one asked for, that fits; 1 where not even that does.

    Args:
        batch: images asked for.
        peak: bytes that they need.
        each: bytes that one more image needs.
        have: bytes there are.
    """
    if peak <= MEMORY_MARGIN * have:
        return batch
    over = peak - MEMORY_MARGIN * have
    if over >= each * batch:  # also where one more image needs nothing, or next to nothing
        return 1
    return max(1, min(batch - 1, batch - math.ceil(over / each)))


@contextmanager
def explain_out_of_memory(parts: TrainingComponents, plan: TrainingSettings, formats: Precision) -> Iterator[None]:
    """A ``with`` block in which running out of memory becomes ``OutOfMemory``, with a proposal."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(suggest_settings(parts, plan, formats)) from error


def suggest_settings(parts: TrainingComponents, plan: TrainingSettings, formats: Precision) -> str:
    """What there is, what was asked for, and what to try: fewer images a pass and more passes a step, else a smaller crop."""
    crop = parts.config.get("augment", {}).get("crop")
    asked = f"batch_size={plan.batch_size}, augment.crop={crop}, accumulate={plan.grad_accum_steps}"
    came = f"out of memory on {formats.device.type} ({total_memory(formats.device) / 1e9:.1f} GB) with {asked}"
    if plan.batch_size > 1:
        fewer = (plan.batch_size + 1) // 2
        passes = -(-plan.batch_size * plan.grad_accum_steps // fewer)
        tip = f"Try batch_size={fewer} accumulate={passes}, which makes the same step in more passes"
    elif crop:
        smaller = [max(33, int(side * 0.7) // 32 * 32 + 1) for side in crop]
        tip = f"Try augment.crop=[{smaller[0]},{smaller[1]}]"
    else:
        tip = "Set augment.crop=[H,W] to train on parts of the images"
    return f"{came}. {tip}; dry_run=true says beforehand what a step needs. The newest checkpoint is whole: go on with resume=auto."


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text or "CUDA out of memory" in text
