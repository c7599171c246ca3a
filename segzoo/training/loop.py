"""The training loop.

A resumed run equals an uninterrupted one bit for bit, given the same CPU, number of threads and settings.
"""

from __future__ import annotations

import time
from contextlib import closing

import torch

from segzoo.data.loader import train_batches
from segzoo.device import Precision, pick_device
from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.evaluation.fingerprint import check_equal_images
from segzoo.layers.norm import set_batch_norm_momentum_
from segzoo.loggers.group import NO_LOGGERS, LoggerGroup
from segzoo.optim.ema import ModelEma
from segzoo.reporting.numbers import format_count
from segzoo.runs.run_dir import RunDir
from segzoo.runs.signals import StopSignal
from segzoo.training.components import TrainingComponents, TrainingSettings
from segzoo.training.context import TrainingContext
from segzoo.training.diagnostics import TrainingDiagnostics
from segzoo.training.dry_run import estimate_resources, explain_out_of_memory
from segzoo.training.logger import open_log
from segzoo.training.pruning import ScheduledPruning
from segzoo.training.results import check_validation_images, discard_lost_scores, precision_note
from segzoo.training.state import Diverged, resume, set_learning_rates
from segzoo.training.step import TrainStep
from segzoo.types import PlainDict


def train(
    components: TrainingComponents,
    run: RunDir,
    settings: TrainingSettings,
    dist: Distributed = SINGLE_PROCESS,
    loggers: LoggerGroup = NO_LOGGERS,
) -> PlainDict:
    """Train a model, with evaluations and checkpoints.

    Args:
        components: the objects of the training.
        run: the directory to write to, and the checkpoint to resume from.
        settings: see ``TrainingSettings``.
        dist: the ranks that train together. Each of them calls this function, only rank 0 writes files.
        loggers: open loggers of the run, in addition to ``metrics.jsonl``.

    Returns:
        The contents of ``result.json``. With ``dry_run``, an estimate of memory and time; see ``estimate_resources``.

    Raises:
        ConfigError: contradictory settings, a checkpoint of another model, or scores of other validation images.
        DataError: an invalid data file, which the message names; or the ranks find different images.
        Diverged: a loss, gradient or weight is not finite or out of range.
        OutOfMemory: the device has too little memory. The message suggests settings.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM arrived. A checkpoint was written.
    """
    if settings.deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports a part of the compiler
        torch.use_deterministic_algorithms(settings.deterministic)
    for dataset in (components.train_set, components.val_set):
        dataset.scan()  # before the loaders' processes start, so that they inherit the result
    check_equal_images(dist, components.train_set, components.val_set)
    precision = Precision(settings.precision, pick_device(settings.device))
    if settings.dry_run:
        with explain_out_of_memory(components, settings, precision):
            return estimate_resources(components, settings, precision, dist.size)
    dist.run_on_rank0(lambda: check_validation_images(run.path, components.val_set))
    with StopSignal() as stop, explain_out_of_memory(components, settings, precision):
        context = _start(components, run, settings, dist=dist, loggers=loggers, precision=precision, stop=stop)
        return _training_loop(context)


def _training_loop(context: TrainingContext) -> PlainDict:
    """Run all steps from the first or resumed one to the last.

    Each iteration saves and evaluates if due, then takes one optimizer step.
    """
    settings, plan, state = context.settings, context.plan, context.state
    dist, pruning, ema, log, stop = context.dist, context.pruning, context.ema, context.log, context.stop
    with closing(context.batches) as batches, log, context.writer:
        settings.check_images_seen(state.step, state.images, dist.size)
        if dist.is_main:
            discard_lost_scores(context.run.path)
        _log_outlook(context)
        train_step = TrainStep(context)
        while True:
            stopping = dist.any(stop.requested, context.precision.device)
            if stopping or plan.saves_at(state.step):
                dist.broadcast_buffers(context.model)
                with ema.applied():
                    context.save_checkpoint()
                    if stopping:
                        context.writer.wait()
                        stop.exit(
                            f"stopped at step {state.step} of {plan.total_steps}; resume with resume=auto or resume={context.run.path}"
                        )
                    if plan.evaluates_at(state.step):
                        context.evaluate()
                context.delete_old_checkpoints()
                if context.should_stop():
                    break
            while pruning.is_due(state.step):
                del train_step  # DDP holds the shapes that the layers had before pruning
                log.info(pruning.prune_(context.optimizer, ema))
                train_step = TrainStep(context)
            set_learning_rates(context.optimizer, context.lr_factor(state.step))
            started = time.perf_counter()
            group = [next(batches) for _ in range(settings.grad_accum_steps)]
            waited = time.perf_counter() - started
            try:
                values = train_step(group, state.step + 1)
            except Diverged as error:
                values = state.skip_step(error, settings.max_nonfinite_steps, log)
            if "grad_norm" in values:  # the step was not skipped
                ema.update()
            seconds = time.perf_counter() - started
            state.update(values, images=settings.images_per_step * dist.size, seconds=seconds, waited=waited)
            context.diagnostics.on_step(state.step, values.get("loss_main"), train_step.valid, group)
            log.advance(state.step)
            if plan.logs_at(state.step):
                context.log_step()
    return context.finish()


def _log_outlook(context: TrainingContext) -> None:
    """Log the length of the run, idle settings and rates ahead."""
    settings, plan, step, log = context.settings, context.plan, context.state.step, context.log
    log.info(f"{format_count(plan.total_steps, 'step')} = {plan.epochs:.1f} epochs, on {context.dist.size}x {context.precision}")
    for note in plan.notes(settings.early_stopping_patience, context.components.config.get("schedule", {})) if step == 0 else ():
        log.info(f"note: {note}")
    if settings.compile:
        log.info("compile=true: the first step compiles the network, which takes a minute or more")
    if step:
        base = max(group.get("base_lr", group["lr"]) for group in context.optimizer.param_groups)
        steps = sorted({step, (step + plan.total_steps) // 2, max(step, plan.total_steps - 1)})
        rates = ", ".join(f"{base * context.lr_factor(number):.2e} at step {number}" for number in steps)
        log.info(f"learning rate: {rates}")
    if context.dist.is_main and (note := precision_note(context.run.path, context.precision.name)):
        log.info(f"note: {note}")


def _start(
    components: TrainingComponents,
    run: RunDir,
    settings: TrainingSettings,
    *,
    dist: Distributed,
    loggers: LoggerGroup,
    precision: Precision,
    stop: StopSignal,
) -> TrainingContext:
    """Seed the rank, place the model and restore the run."""
    torch.manual_seed(settings.seed + dist.rank)
    plan = settings.plan(len(components.train_set), dist.size)
    model = precision.place(components.model, channels_last=settings.channels_last).train()
    set_batch_norm_momentum_(model, settings.bn_momentum)
    pruning = ScheduledPruning(model, components, plan.total_steps, precision, dist)
    optimizer, ema = components.make_optimizer(model), ModelEma(model, settings.ema_decay)
    state = resume(
        run,
        dist,
        model=model,
        optimizer=optimizer,
        scaler=precision.scaler,
        ema=ema,
        pruning=pruning,
        classes=components.info.classes,
        epoch_size=len(components.train_set),
        total_steps=plan.total_steps,
    )
    batches = train_batches(
        components.train_set,
        components.augment,
        batch_size=settings.batch_size,
        workers=settings.workers,
        seed=settings.seed,
        images_seen=state.images,
        rank=dist.rank,
        world_size=dist.size,
        sampler=components.sampler,
        pin=precision.uses_cuda,
    )
    log, lr_factor = open_log(run, state.step, plan.total_steps, loggers, dist), components.make_schedule(plan.total_steps)
    return TrainingContext(
        components=components,
        settings=settings,
        plan=plan,
        run=run,
        dist=dist,
        precision=precision,
        stop=stop,
        model=model,
        optimizer=optimizer,
        lr_factor=lr_factor,
        ema=ema,
        pruning=pruning,
        state=state,
        batches=batches,
        log=log,
        diagnostics=TrainingDiagnostics(log.info, settings.workers, components.info.num_classes, state.step),
    )
