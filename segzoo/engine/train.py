"""The training loop. It goes on where a checkpoint stopped, bit for bit on the same CPU, threads and settings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from segzoo.data.loader import Augment, train_batches
from segzoo.engine.checkpoint import save, scores_of
from segzoo.engine.device import Precision, normalise, pick_device
from segzoo.engine.evaluate import evaluate
from segzoo.engine.infer import forward
from segzoo.engine.log import RunLog
from segzoo.engine.progress import Plan, restore, run_length, set_rates, trainer_state
from segzoo.engine.record import keep_scores, log_step, result_of, show_pictures, write_sheet
from segzoo.engine.run import Run
from segzoo.engine.steps import drop_old, step_folder
from segzoo.engine.stop import StopRequest
from segzoo.registry import ConfigError, Range
from segzoo.types import Batch, DataCard, Dataset


class Diverged(RuntimeError):
    """A loss or gradient that is not finite; the message names the step and the pictures."""


@dataclass
class Parts:
    """What a training is made of; the engine knows none of it by name.

    Attributes:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``.
        train_set, val_set: labelled pictures.
        augment: ``(sample, seed) -> sample``, or None.
        loss: ``loss.terms(logits, label, weight)`` of each head, ``loss.total(terms)`` and ``loss.weight(label, logits)``.
        make_optimizer: called with the model once it is on its device; groups may carry ``name`` and ``base_lr``.
        make_schedule: called with the number of steps; gives ``step -> factor`` of each group's ``base_lr``.
        card: classes and normalisation; written into checkpoints.
        config: the plain configuration; written into checkpoints.
    """

    model: nn.Module
    train_set: Dataset
    val_set: Dataset
    augment: Augment | None
    loss: Any
    make_optimizer: Callable[[nn.Module], Optimizer]
    make_schedule: Callable[[int], Callable[[int], float]]
    card: DataCard
    config: dict[str, Any]


def train(
    parts: Parts,
    run: Run,
    *,
    steps: Annotated[int, Range(1)] | None = None,
    epochs: Annotated[float, Range(0, None, above=True)] | None = None,
    batch_size: Annotated[int, Range(1)] = 8,
    accumulate: Annotated[int, Range(1)] = 1,
    workers: Annotated[int, Range(0)] = 2,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    channels_last: bool = True,
    clip: Annotated[float, Range(0, None, above=True)] | None = None,
    seed: Annotated[int, Range(0)] = 0,
    eval_every: Annotated[int, Range(1)] | None = None,
    save_every: Annotated[int, Range(1)] | None = None,
    keep: Annotated[int, Range(1)] = 2,
    log_every: Annotated[int, Range(1)] = 10,
    val_pictures: Annotated[int, Range(0)] = 4,
) -> dict[str, Any]:
    """Trains, saving and evaluating on the way, and returns what ``result.json`` will hold.

    Args:
        parts, run: what to train, on what, how; the folder to write to and the checkpoint to go on from.
        steps, epochs: length of the whole run in optimiser steps, or in passes over the training set; give one.
        batch_size: pictures per forward pass.
        accumulate: forward passes per step; their gradients add up to those of one batch of batch_size * accumulate.
        workers: processes that read pictures; changes no result.
        device, precision: where to train, and the number format of the layers; weights, classifiers and losses stay fp32.
        channels_last: keep activations in NHWC order.
        clip: largest norm of the gradient; None does not clip.
        seed: of data order, augmentation and dropout.
        eval_every: steps between evaluations; None makes about ten, an epoch or more apart. The last step is always evaluated.
        save_every: steps between further checkpoints; None saves before the first step and before each evaluation only.
        keep: newest checkpoints kept besides the best.
        log_every: steps between rows of the log.
        val_pictures: validation pictures whose prediction is shown at every evaluation.

    Raises:
        ConfigError: settings that contradict each other, or a checkpoint of another model.
        DataError: a file is faulty; the message names it.
        Diverged: loss or gradient is not finite; no weight was touched by it.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; a checkpoint was written.
    """
    total = run_length(steps, epochs, len(parts.train_set), batch_size * accumulate)
    epoch = len(parts.train_set) // (batch_size * accumulate)
    often = eval_every or max(1, round(total / 10), min(epoch, total)), save_every or total
    plan = Plan(total, batch_size, accumulate, workers, channels_last, clip, seed, *often, keep, log_every, val_pictures)
    for pictures in (parts.train_set, parts.val_set):
        pictures.scan()  # once, so that the loaders' processes inherit what was found or drawn
    with StopRequest() as stop:
        return _train(parts, run, plan, Precision(precision, pick_device(device)), stop)


def _train(parts: Parts, run: Run, plan: Plan, formats: Precision, stop: StopRequest) -> dict[str, Any]:
    """The run from its first or resumed step to its last. Each turn: save and evaluate where due, then one optimiser step."""
    torch.manual_seed(plan.seed)
    layout = torch.channels_last if plan.channels_last else torch.preserve_format
    model = parts.model.to(formats.device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer, factor = parts.make_optimizer(model), parts.make_schedule(plan.total)
    at = restore(run, model, optimizer, formats.scaler, len(parts.train_set), plan.total)
    start = at.images // plan.batch_size
    batches = train_batches(
        parts.train_set, parts.augment, batch_size=plan.batch_size, workers=plan.workers, seed=plan.seed, start=start
    )
    how: Any = {"device": formats.device.type, "precision": formats.name, "workers": plan.workers}
    evaluated = scores_of(step_folder(run.folder, at.step)) is not None
    with RunLog(run.folder, at.step, evaluated, plan.total, parts.config) as log, closing(batches):
        log.say(f"{plan.total} steps = {plan.epochs(len(parts.train_set)):.1f} epochs, on {formats.device.type} in {formats.name}")
        while True:
            folder, stopping = step_folder(run.folder, at.step), stop.requested
            if (plan.saves(at.step) or stopping) and folder != run.resume_from:
                save(run.folder, at.step, model, trainer_state(at, optimizer, formats.scaler), parts.config, parts.card, {})
            goodbye = f"stopped at step {at.step} of {plan.total}; go on with resume=auto or resume={run.folder}"
            if stopping:
                stop.check(goodbye)
            if plan.evaluates(at.step) and scores_of(folder) is None:
                result = evaluate(model, parts.val_set, parts.card, parts.loss, lambda done, why=goodbye: stop.check(why), **how)
                keep_scores(run.folder, at, result, log)
                show_pictures(log, at.step, model, parts.val_set, parts.card, plan.val_pictures, formats)
            if plan.saves(at.step):
                drop_old(run.folder, plan.keep)
            if at.step == plan.total:
                break
            set_rates(optimizer, factor(at.step))
            began = time.perf_counter()
            group = [next(batches) for _ in range(plan.accumulate)]
            waited = time.perf_counter() - began
            values = _step(model, optimizer, parts, group, plan, formats, at.step + 1)
            at.advance(values, plan.batch_size * plan.accumulate, time.perf_counter() - began, waited)
            log.advance(at.step)
            if plan.logs(at.step):
                log_step(log, at, optimizer)
    write_sheet(run.folder / "vis" / "val.png", model, parts.val_set, parts.card, plan.val_pictures, formats)
    return result_of(run.folder, at, model)


def _step(
    model: nn.Module, optimizer: Optimizer, parts: Parts, group: list[Batch], plan: Plan, formats: Precision, step: int
) -> dict[str, float]:
    """One optimiser step over the accumulated batches; returns the loss, its main and auxiliary share, and the gradient's norm."""
    _check_sizes(group, parts.loss)
    optimizer.zero_grad(set_to_none=True)
    labels = [batch.label.to(formats.device, non_blocking=True) for batch in group]
    weight: Any = None
    total, main = 0.0, 0.0
    for batch, label in zip(group, labels, strict=True):
        x = normalise(batch.image, parts.card, formats.device, plan.channels_last)
        logits = forward(model, x, formats)
        if weight is None:  # of all parts, so that their gradients add up to the whole's; the logits only lend their size
            weight = torch.stack([parts.loss.weight(other, logits) for other in labels]).sum(0)
        terms = parts.loss.terms(logits, label, weight)
        loss = parts.loss.total(terms)
        total += float(loss.detach())
        if not math.isfinite(total):
            raise Diverged(_advice(f"the loss is {total}", step, [batch]))
        formats.scaler.scale(loss).backward()
        if plan.logs(step):
            main += float(terms[0].detach())
    formats.scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if formats.name != "fp16" and not torch.isfinite(norm):  # fp16: the scaler skips such a step and lowers its scale
        raise Diverged(_advice(f"the gradient's norm is {float(norm)}", step, group))
    if plan.clip is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), plan.clip, norm)
    formats.scaler.step(optimizer)
    formats.scaler.update()
    shares = {"loss_main": main, "loss_aux": total - main} if plan.logs(step) else {}
    return {"loss": total, "grad_norm": float(norm), **shares}


def _check_sizes(group: list[Batch], loss: Any) -> None:
    """Accumulated batches may differ in size only if the loss works at label size: else its weight depends on each one's logits."""
    if len({tuple(batch.label.shape) for batch in group}) > 1 and getattr(loss, "at", None) != "label":
        names = ", ".join(f"{batch.names[0]} {batch.label.shape[1]}x{batch.label.shape[2]}" for batch in group)
        raise ConfigError(
            f"accumulate={len(group)} with pictures of several sizes ({names}, HxW) needs loss.at=label, or one size by augment.crop=[H,W]"
        )


def _advice(what: str, step: int, group: list[Batch]) -> str:
    names = ", ".join(name for batch in group for name in batch.names)
    return (
        f"{what} at step {step}, on {names}. The weights are still those before it. Look at these pictures and their labels; "
        "else lower optim.lr, add schedule.warmup, or set clip=1.0, and go on with resume=<run folder>"
    )
