"""How far a run is, what is due when, and what a checkpoint must hold so that a run goes on as if it had never stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import delete_after
from segzoo.distributed import Distributed
from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.optim.ema import ModelEma
from segzoo.registry import ConfigError
from segzoo.runs.run_dir import RunDir
from segzoo.training.logger import AverageMeters, MetricLogger
from segzoo.training.pruning import ScheduledPruning, match_memory_format_


class Diverged(RuntimeError):
    """A loss or gradient that is not finite; the message names the step and the images."""


@dataclass
class TrainingState:
    """Where a run is.

    Attributes:
        step: optimizer steps done.
        images: training images seen.
        epoch_size: images in the training set.
        seconds: spent before this process took over.
        bad: steps in a row, the last one included, whose numbers were not finite.
        means: of the values since the last row of the log.
        clock: seconds of steps, and of waiting for data in them, since the last row; not resumed.
    """

    epoch_size: int
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    nonfinite_steps: int = 0
    loss_meters: AverageMeters = field(default_factory=AverageMeters)
    time_meters: AverageMeters = field(default_factory=AverageMeters)
    began: float = field(default_factory=time.perf_counter)

    @property
    def epoch(self) -> float:
        return self.images / self.epoch_size

    @property
    def minutes(self) -> float:
        """Minutes the run took so far, all its parts together."""
        return (self.seconds + time.perf_counter() - self.began) / 60

    def skip_step(self, error: Diverged, allowed: int, log: MetricLogger) -> dict[str, float]:
        """Counts a step that changed nothing, and says so; raises its error once there are more in a row than allowed."""
        self.nonfinite_steps += 1
        if self.nonfinite_steps > allowed:
            raise Diverged(f"{error}, and go on with resume=<run directory>") from None
        log.info(f"left out, {self.nonfinite_steps} of {allowed} in a row allowed: {error}")
        return {}

    def update(self, values: Mapping[str, float], images: int, seconds: float, waited: float) -> None:
        self.step += 1
        self.nonfinite_steps = 0 if values else self.nonfinite_steps
        self.images += images
        self.loss_meters.add(values)
        self.time_meters.add({"seconds": seconds, "waited": waited, "images": images})


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Sets every group's learning rate to its ``base_lr`` times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * factor


def trainer_state_dict(
    at: TrainingState, optimizer: Optimizer, scaler: Any, average: ModelEma, share: float, world: Distributed
) -> dict[str, Any]:
    """Everything but the weights, in plain containers and tensors; called on every rank."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return {
        "step": at.step,
        "images_seen": at.images,
        "seconds": at.minutes * 60,
        "bad": at.nonfinite_steps,
        "means": at.loss_meters.state(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "average": average.state(),
        "share": share,  # of the channels that pruning has left
        "rng": world.gather({"cpu": torch.get_rng_state(), "cuda": cuda}),  # of each rank
    }


def resume(
    run: RunDir,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: Any,
    average: ModelEma,
    slimming: ScheduledPruning,
    epoch_size: int,
    total: int,
    world: Distributed,
) -> TrainingState:
    """Brings a run back to the checkpoint it goes on from; without one, to its beginning.

    Learning rates and the other settings of the optimizer are those of the configuration, its moments those of the checkpoint.

    Raises:
        ConfigError: the checkpoint is of another model or optimizer, or of a later step than the run has.
    """
    if run.resume_from is None:
        return TrainingState(epoch_size)
    saved = read_trainer(run.resume_from)
    if saved["step"] > total:
        raise ConfigError(f"{run.resume_from} is beyond the end of this run of {total} steps; make steps or epochs larger")
    state, meta = read_model(run.resume_from)
    try:
        set_channel_widths_(model, state) if meta["widths"] else model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{run.resume_from} is of another model, so this run cannot go on from it: {error}") from None
    average.restore(saved["average"])
    own = optimizer.state_dict()["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved["optimizer"]["param_groups"]]:
        raise ConfigError(f"{run.resume_from}: its optimizer has other parameter groups; keep the optim settings to go on from it")
    optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": own})
    match_memory_format_(optimizer)
    slimming.keep_ratio = saved.get("share", 1.0)
    if saved["scaler"]:
        scaler.load_state_dict(saved["scaler"])
    _restore_randomness(saved["rng"], saved["images_seen"], world)
    if world.is_main and run.resume_from.parent.parent == run.path:
        delete_after(run.path, saved["step"])
    return TrainingState(
        epoch_size, saved["step"], saved["images_seen"], saved["seconds"], saved["bad"], AverageMeters(saved["means"])
    )


def _restore_randomness(states: list[dict[str, Any]], images: int, world: Distributed) -> None:
    if len(states) != world.size:
        if world.is_main:
            print(f"{len(states)} processes wrote the checkpoint, {world.size} go on from it, after {images} images", flush=True)
        return
    own = states[world.rank]
    torch.set_rng_state(own["cpu"])
    if torch.cuda.is_initialized() and own["cuda"]:
        torch.cuda.set_rng_state(own["cuda"][0])
