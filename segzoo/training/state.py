"""State of a training, and how a run resumes exactly."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote

import torch
from torch import nn
from torch.amp import GradScaler  # type: ignore[attr-defined]
from torch.optim import Optimizer

from segzoo.checkpoints.schema import TRAINER, check_trainer
from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import delete_after
from segzoo.distributed import Distributed
from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.optim.ema import ModelEma
from segzoo.registry import ConfigError
from segzoo.runs.run_dir import RunDir
from segzoo.training.logger import AverageMeters, MetricLogger
from segzoo.training.pruning import ScheduledPruning, match_memory_format_
from segzoo.types import PlainDict, TrainingError


class Diverged(TrainingError):
    """A training whose loss, gradient or weights are out of range.

    The message names the step.
    """


@dataclass
class TrainingState:
    """Progress of a run.

    Attributes:
        epoch_size: images in the training set.
        step: optimizer steps done.
        images: training images seen.
        seconds: training time before this process started.
        nonfinite_steps: consecutive steps with a non-finite loss or gradient, up to and including the last step.
        loss_meters: mean losses since the last log row.
        time_meters: mean seconds per step, in total and waiting for data, since the last log row. Not saved in checkpoints.
    """

    epoch_size: int
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    nonfinite_steps: int = 0
    loss_meters: AverageMeters = field(default_factory=AverageMeters)
    time_meters: AverageMeters = field(default_factory=AverageMeters)
    started: float = field(default_factory=time.perf_counter)

    @property
    def epoch(self) -> float:
        return self.images / self.epoch_size

    @property
    def minutes(self) -> float:
        """Training time so far in minutes, over all processes of the run."""
        return (self.seconds + time.perf_counter() - self.started) / 60

    def skip_step(self, error: Diverged, allowed: int, log: MetricLogger) -> dict[str, float]:
        """Count a skipped step.

        Raises:
            Diverged: more than ``allowed`` consecutive steps were skipped.
        """
        self.nonfinite_steps += 1
        if self.nonfinite_steps > allowed:
            raise Diverged(f"{error}, and resume with resume=<run directory>") from None
        log.info(f"step skipped ({self.nonfinite_steps} in a row, at most {allowed} allowed): {error}")
        return {}

    def update(self, values: Mapping[str, float], *, images: int, seconds: float, waited: float) -> None:
        """Count a step.

        Args:
            values: losses of the step, empty if it was skipped.
            images: images of the step over all ranks.
            seconds: duration of the step.
            waited: seconds of it spent waiting for data.
        """
        self.step += 1
        self.nonfinite_steps = 0 if values else self.nonfinite_steps
        self.images += images
        self.loss_meters.add(values)
        self.time_meters.add({"seconds": seconds, "waited": waited, "images": images})


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to its ``base_lr`` times ``factor``."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * factor


def resume(
    run: RunDir,
    dist: Distributed,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: GradScaler,
    ema: ModelEma,
    pruning: ScheduledPruning,
    classes: Sequence[str],
    epoch_size: int,
    total_steps: int,
) -> TrainingState:
    """Restore a run in place from the checkpoint it resumes from.

    A new run starts at step 0. The optimizer's moments come from the checkpoint, its learning rates and other settings from the
    configuration.

    Raises:
        ConfigError: the checkpoint has another model, optimizer or classes, or is past the end of the run.
    """
    checkpoint = run.resume_from
    if checkpoint is None:
        return TrainingState(epoch_size)
    saved = read_trainer(checkpoint)
    check_trainer(checkpoint / TRAINER, saved)
    if saved["step"] > total_steps:
        raise ConfigError(f"{checkpoint} is past the end of this run of {total_steps} steps. Increase steps or epochs.")
    weights, meta = read_model(checkpoint)
    if list(classes) != (learned := meta["dataset"]["classes"]):
        raise ConfigError(
            f"{checkpoint} has learned the classes {', '.join(learned)}, and this run has {', '.join(classes)}. Resume with the same names in "
            f"the same order, or start a new run from its weights: init.ckpt={quote(str(checkpoint))}"
        )
    try:
        set_channel_widths_(model, weights) if meta["widths"] else model.load_state_dict(weights)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{checkpoint} belongs to another model, so this run cannot resume from it: {error}") from None
    ema.restore(saved["ema"])
    groups = optimizer.state_dict()["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved["optimizer"]["param_groups"]]:
        raise ConfigError(f"{checkpoint}: its optimizer has other parameter groups. Use the same optim settings to resume from it.")
    optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": groups})
    match_memory_format_(optimizer)
    pruning.keep_ratio = saved["keep_ratio"]
    if saved["scaler"]:
        scaler.load_state_dict(saved["scaler"])
    _restore_rng(saved["rng"], saved["images_seen"], dist)
    if dist.is_main and checkpoint.parent.parent == run.path:
        delete_after(run.path, saved["step"])
    return TrainingState(
        epoch_size,
        step=saved["step"],
        images=saved["images_seen"],
        seconds=saved["seconds"],
        nonfinite_steps=saved["nonfinite_steps"],
        loss_meters=AverageMeters(saved["loss_meters"]),
    )


def _restore_rng(states: list[PlainDict], images: int, dist: Distributed) -> None:
    if len(states) != dist.size:
        if dist.is_main:
            message = f"note: {len(states)} processes wrote the checkpoint and {dist.size} resume from it, after {images} images, so their random states are not restored"
            print(message, flush=True)
        return
    own = states[dist.rank]
    torch.set_rng_state(own["cpu"])
    if torch.cuda.is_initialized() and own["cuda"]:
        torch.cuda.set_rng_state(own["cuda"][0])
