"""The training loop. It goes on where a checkpoint stopped, bit for bit on the same CPU, threads and settings."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Annotated, Any, Literal

import torch

from segzoo.data.loader import train_batches
from segzoo.device import Precision, pick_device
from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.optim.ema import ModelEma
from segzoo.registry import Range
from segzoo.runs.run_dir import RunDir
from segzoo.runs.signals import StopSignal
from segzoo.training.components import TrainingComponents, TrainingSettings, total_steps
from segzoo.training.context import TrainingContext
from segzoo.training.diagnostics import TrainingDiagnostics
from segzoo.training.dry_run import estimate_resources, explain_out_of_memory
from segzoo.training.logger import open_log
from segzoo.training.pruning import ScheduledPruning
from segzoo.training.results import log_step
from segzoo.training.state import Diverged, resume, set_learning_rates
from segzoo.training.step import TrainStep


def train(
    parts: TrainingComponents,
    run: RunDir,
    world: Distributed = SINGLE_PROCESS,
    *,
    steps: Annotated[int, Range(1)] | None = None,
    epochs: Annotated[float, Range(0, None, above=True)] | None = None,
    batch_size: Annotated[int, Range(1)] = 8,
    grad_accum_steps: Annotated[int, Range(1)] = 1,
    workers: Annotated[int, Range(0)] = 2,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    channels_last: bool = True,
    clip_grad_norm: Annotated[float, Range(0, None, above=True)] | None = None,
    seed: Annotated[int, Range(0)] = 0,
    eval_every: Annotated[int, Range(1)] | None = None,
    save_every: Annotated[int, Range(1)] | None = None,
    keep_checkpoints: Annotated[int, Range(1)] = 2,
    log_every: Annotated[int, Range(1)] = 10,
    num_val_images: Annotated[int, Range(0)] = 4,
    ema_decay: Annotated[float, Range(0, 1)] | None = None,
    early_stopping_patience: Annotated[int, Range(1)] | None = None,
    max_nonfinite_steps: Annotated[int, Range(0)] = 3,
    sync_bn: bool = True,
    deterministic: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Trains, saving and evaluating on the way, and returns what ``result.json`` will hold.

    Args:
        parts, run: what to train, on what, how; the folder to write to and the checkpoint to go on from.
        world: the ranks that train together; every one of them calls this, rank 0 alone writes.
        steps, epochs: length of the whole run in optimizer steps, or in passes over the training set; give one.
        batch_size: images per forward pass of each rank.
        accumulate: forward passes per step; their gradients add up to those of one batch of batch_size * accumulate.
        workers: processes that read images; changes no result.
        device, precision: where to train, and the number format of the layers; weights, classifiers and losses stay fp32.
        channels_last: keep activations in NHWC order.
        clip: largest norm of the gradient; None does not clip.
        seed: of data order, augmentation and dropout; ``config.build_training`` seeds the initial weights with it.
        eval_every: steps between evaluations; None makes about ten, an epoch or more apart. The last step is always evaluated.
        save_every: steps between further checkpoints; None saves before the first step and before each evaluation only.
        keep: newest checkpoints kept besides the best.
        log_every: steps between rows of the log.
        num_val_images: validation images whose prediction is shown at every evaluation.
        ema: share of a running average of the weights that a step keeps; the average is then evaluated and stored. None keeps none.
        early_stopping_patience: evaluations without a better mIoU after which the run ends; None runs to the last step.
        max_nonfinite_steps: steps in a row with a loss or gradient that is not finite that are left out before the run stops.
        sync_bn: batch norm over the images of all ranks, where every rank has CUDA.
        deterministic: use only operations that give the same bits again; one that cannot is an error that names it.
        dry: take two small steps instead, and return what a step will need; see ``memory.rehearse``.

    Raises:
        ConfigError: settings that contradict each other, or a checkpoint of another model.
        DataError: a file is invalid; the message names it.
        Diverged: loss or gradient is not finite, again and again; no weight was touched by it.
        OutOfMemory: the device has too little memory; the message proposes settings.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; a checkpoint was written.
    """
    total = total_steps(steps, epochs, len(parts.train_set), batch_size * grad_accum_steps * world.size)
    epoch = len(parts.train_set) // (batch_size * grad_accum_steps * world.size)
    often = eval_every or max(1, round(total / 10), min(epoch, total)), save_every or total
    shown = keep_checkpoints, log_every, num_val_images, ema_decay, early_stopping_patience, max_nonfinite_steps, sync_bn
    plan = TrainingSettings(total, batch_size, grad_accum_steps, workers, channels_last, clip_grad_norm, seed, *often, *shown)
    torch.use_deterministic_algorithms(deterministic)
    for pictures in (parts.train_set, parts.val_set):
        pictures.scan()  # once, so that the loaders' processes inherit what was found or drawn
    formats = Precision(precision, pick_device(device))
    if dry_run:
        return estimate_resources(parts, plan, formats)
    with StopSignal() as stop, explain_out_of_memory(parts, plan, formats):
        return _training_loop(parts, run, plan, formats, stop, world)


def _training_loop(
    parts: TrainingComponents, run: RunDir, plan: TrainingSettings, formats: Precision, stop: StopSignal, world: Distributed
) -> dict[str, Any]:
    """The run from its first or resumed step to its last. Each turn: save and evaluate where due, then one optimizer step."""
    torch.manual_seed(plan.seed + world.rank)
    layout = torch.channels_last if plan.channels_last else torch.preserve_format
    model = parts.model.to(formats.device, memory_format=layout).train()  # type: ignore[call-overload]
    slimming = ScheduledPruning(model, parts, plan.total, formats, world)
    optimizer, factor, average = parts.make_optimizer(model), parts.make_schedule(plan.total), ModelEma(model, plan.ema_decay)
    at = resume(run, model, optimizer, formats.scaler, average, slimming, len(parts.train_set), plan.total, world)
    stepper = TrainStep(world.wrap_ddp(model, plan.sync_bn), model, optimizer, parts, plan, formats, world, slimming)
    batches = train_batches(
        parts.train_set, parts.augment, batch_size=plan.batch_size, workers=plan.workers, seed=plan.seed, seen=at.images,
        rank=world.rank, world=world.size,
    )  # fmt: skip
    with open_log(run, at.step, plan.total, parts.config, world) as log, closing(batches):
        log.info(f"{plan.total} steps = {plan.epochs(at.epoch_size, world.size):.1f} epochs, on {world.size}x {formats}")
        watch = TrainingDiagnostics(log.info, plan.workers)
        session = TrainingContext(parts, run, plan, formats, world, stop, model, optimizer, average, slimming, at, log, watch)
        while True:
            stopping = world.any(stop.requested, formats.device)
            if stopping or plan.saves(at.step):
                world.broadcast_buffers(model)
                with average.applied():
                    session.save_checkpoint()
                    if stopping:
                        stop.exit(f"stopped at step {at.step} of {plan.total}; go on with resume=auto or resume={run.path}")
                    if plan.evaluates(at.step):
                        session.evaluate()
                session.delete_old_checkpoints()
                if session.should_stop():
                    break
            while slimming.is_due(at.step):
                del stepper  # what averages the gradients of several ranks knows their shapes
                log.info(slimming.prune_(at.step, optimizer, average))
                stepper = TrainStep(world.wrap_ddp(model, plan.sync_bn), model, optimizer, parts, plan, formats, world, slimming)
            set_learning_rates(optimizer, factor(at.step))
            began = time.perf_counter()
            group = [next(batches) for _ in range(plan.grad_accum_steps)]
            waited = time.perf_counter() - began
            try:
                values = stepper(group, at.step + 1)
            except Diverged as error:
                values = at.skip_step(error, plan.max_nonfinite_steps, log)
            average.update()
            at.update(values, plan.images * world.size, time.perf_counter() - began, waited)
            watch.on_step(at.step, stepper.valid, group)
            log.advance(at.step)
            if plan.logs(at.step):
                log_step(log, at, optimizer, watch)
    with average.applied():
        return session.finish()
