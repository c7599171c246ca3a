"""Estimates of memory and time, and advice when memory runs out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from segzoo.data.loader import train_batches
from segzoo.device import Precision, peak_memory
from segzoo.distributed import SINGLE_PROCESS
from segzoo.messages import format_override
from segzoo.optim.ema import ModelEma
from segzoo.runs.run_dir import RunDir
from segzoo.runs.signals import StopSignal
from segzoo.system_errors import is_out_of_memory
from segzoo.training.components import TrainingComponents, TrainingSettings
from segzoo.training.context import TrainingContext
from segzoo.training.diagnostics import TrainingDiagnostics
from segzoo.training.logger import NullLogger
from segzoo.training.pruning import ScheduledPruning
from segzoo.training.state import TrainingState
from segzoo.training.step import TrainStep
from segzoo.types import PlainDict, TrainingError

MEMORY_MARGIN = 0.92  # fraction of the memory that suggested settings may use


class OutOfMemory(TrainingError):
    """Too little device memory for the settings.

    The message suggests other settings.
    """


def estimate_resources(
    components: TrainingComponents, settings: TrainingSettings, precision: Precision, ranks: int = 1
) -> PlainDict:
    """Take steps on two small batches and extrapolate to the whole batch.

    A batch of one image is measured as it is, since images may differ in size. Pruning stages due before the first step are run as well.
    The weights change, so the model must not be trained afterwards. Memory is what torch allocates on CUDA, and the peak resident size of
    the process on a CPU.

    Args:
        components, settings, precision: of the training.
        ranks: number of processes that will train together.

    Returns:
        ``peak_gb`` predicted, ``have_gb``, ``fits``, ``step_s`` predicted, ``hours`` of the whole run without evaluations, and the
        largest ``batch_size`` that fits.
    """
    context = _minimal_context(components, settings, precision, ranks)
    while context.pruning.is_due(0):
        context.pruning.prune_(context.optimizer, context.ema)
    train_step = TrainStep(context)
    peaks, seconds = [], []
    sizes = _small_batches(settings)
    for size in sizes:
        stream = train_batches(
            components.train_set, components.augment, batch_size=size, workers=0, seed=settings.seed, pin=precision.uses_cuda
        )
        for _ in range(2):  # the first step also allocates the optimizer's moments and compiles kernels
            started = time.perf_counter()
            train_step([next(stream)], settings.log_every)
            seconds.append(time.perf_counter() - started)
        peaks.append(peak_memory(precision.device))
    per_image = max(0.0, peaks[-1] - peaks[0]) / sizes[0]
    predicted = max(peaks[0], peaks[-1] + per_image * (settings.batch_size - sizes[-1]))
    available = total_memory(precision.device)
    step_seconds = seconds[-1] * settings.batch_size / sizes[-1] * settings.grad_accum_steps
    return {
        "peak_gb": predicted / 1e9,
        "have_gb": available / 1e9,
        "fits": predicted <= MEMORY_MARGIN * available,
        "batch_size": largest_fitting_batch(settings.batch_size, predicted, per_image, available),
        "step_s": step_seconds,
        "hours": step_seconds * context.plan.total_steps / 3600,
    }


def _small_batches(settings: TrainingSettings) -> tuple[int, ...]:
    """Batch sizes to measure, at most the whole one."""
    if settings.batch_size == 1:
        return (1,)
    return (2, 4) if settings.batch_size >= 4 else (1, 2)


def _minimal_context(
    components: TrainingComponents, settings: TrainingSettings, precision: Precision, ranks: int
) -> TrainingContext:
    """Create a context for steps without a run directory or log."""
    plan = settings.plan(len(components.train_set), ranks)
    model = precision.place(components.model, channels_last=settings.channels_last).train()
    log = NullLogger()
    return TrainingContext(
        components=components,
        settings=settings,
        plan=plan,
        run=RunDir(Path()),
        dist=SINGLE_PROCESS,
        precision=precision,
        stop=StopSignal(),
        model=model,
        optimizer=components.make_optimizer(model),
        lr_factor=components.make_schedule(plan.total_steps),
        ema=ModelEma(model, None),
        pruning=ScheduledPruning(model, components, plan.total_steps, precision, SINGLE_PROCESS),
        state=TrainingState(len(components.train_set)),
        batches=iter(()),  # type: ignore[arg-type]  # unused
        log=log,
        diagnostics=TrainingDiagnostics(log.info, settings.workers, components.info.num_classes),
    )


def total_memory(device: torch.device) -> float:
    """Return the memory of a device in bytes.

    For a CPU this is the memory of the machine.
    """
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def largest_fitting_batch(batch: int, peak: float, per_image: float, available: float) -> int:
    """Return the largest batch size that fits into memory.

    It is at most ``batch`` and at least 1.

    Args:
        batch: requested batch size.
        peak: memory that it needs, in bytes.
        per_image: memory of one more image, in bytes.
        available: memory of the device, in bytes.
    """
    if peak <= MEMORY_MARGIN * available:
        return batch
    excess = peak - MEMORY_MARGIN * available
    if excess >= per_image * batch:  # also if one more image needs almost no memory
        return 1
    return max(1, min(batch - 1, batch - math.ceil(excess / per_image)))


@contextmanager
def explain_out_of_memory(components: TrainingComponents, settings: TrainingSettings, precision: Precision) -> Iterator[None]:
    """Convert out-of-memory errors in a ``with`` block to ``OutOfMemory``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(suggest_settings(components, settings, precision)) from error


def suggest_settings(components: TrainingComponents, settings: TrainingSettings, precision: Precision) -> str:
    """Suggest activation checkpointing, or else smaller batches or crops.

    A dry run has tried a part of the batch only.
    """
    config = components.config
    crop, checkpoint = config.get("augment", {}).get("crop"), config.get("backbone", {}).get("checkpoint")
    requested = f"batch_size={settings.batch_size}, augment.crop={crop}, grad_accum_steps={settings.grad_accum_steps}"
    if checkpoint is False:
        hint = "Try backbone.checkpoint=true, which computes activations again instead of keeping them"
    elif settings.batch_size > 1:
        tried = _small_batches(settings)[-1] if settings.dry_run else settings.batch_size
        fewer = max(size for size in range(1, tried // 2 + 1) if settings.batch_size % size == 0)
        passes = settings.batch_size // fewer * settings.grad_accum_steps
        hint = f"Try batch_size={fewer} grad_accum_steps={passes}, which takes the same step in more forward passes"
    elif crop:
        smaller = [max(33, int(side * 0.7) // 32 * 32 + 1) for side in crop]
        hint = f"Try {format_override('augment.crop', smaller)}"
    else:
        hint = "Set 'augment.crop=[H,W]' to train on crops of the images"
    outlook = (
        ""
        if settings.dry_run
        else "; dry_run=true estimates beforehand what a step needs. The newest checkpoint is complete: resume with resume=auto"
    )
    return f"out of memory on {_describe_memory(precision.device)} with {requested}. {hint}{outlook}."


def _describe_memory(device: torch.device) -> str:
    """Name a device and the size of its memory, if known."""
    with suppress(RuntimeError):  # after some errors, CUDA answers no further call
        return f"{device.type} ({total_memory(device) / 1e9:.1f} GB)"
    return device.type
