"""Objects of a running training, and the actions between its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer

from segzoo.checkpoints.background import BackgroundWriter
from segzoo.checkpoints.serialization import read_scores
from segzoo.checkpoints.store import delete_newest, delete_old, read_pointer, step_dir
from segzoo.checkpoints.writing import prepare_checkpoint
from segzoo.data.loader import BatchStream
from segzoo.device import Precision
from segzoo.distributed import Distributed
from segzoo.evaluation.evaluator import evaluate
from segzoo.optim.ema import ModelEma
from segzoo.runs.run_dir import RunDir
from segzoo.runs.signals import StopSignal
from segzoo.training.components import TrainingComponents, TrainingPlan, TrainingSettings
from segzoo.training.diagnostics import TrainingDiagnostics
from segzoo.training.logger import MetricLogger
from segzoo.training.pruning import ScheduledPruning
from segzoo.training.results import log_step, prediction_panels, run_summary, store_scores
from segzoo.training.state import Diverged, TrainingState
from segzoo.types import PlainDict


@dataclass(kw_only=True)
class TrainingContext:
    """Objects of a running training, one set per rank.

    Attributes:
        writer: writes and deletes checkpoints on rank 0 while the training continues.
    """

    components: TrainingComponents
    settings: TrainingSettings
    plan: TrainingPlan
    run: RunDir
    dist: Distributed
    precision: Precision
    stop: StopSignal
    model: nn.Module
    optimizer: Optimizer
    lr_factor: Callable[[int], float]
    ema: ModelEma
    pruning: ScheduledPruning
    state: TrainingState
    batches: BatchStream
    log: MetricLogger
    diagnostics: TrainingDiagnostics
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)

    def save_checkpoint(self) -> None:
        """Copy the checkpoint and write it in the background on rank 0.

        Every rank calls it, with the weights to be evaluated in the model. The copy takes as much memory as weights and optimizer state, and is
        the only one at a time.

        Raises:
            Diverged: a weight is not finite or out of range.
            OSError, CheckpointError: the previous checkpoint could not be written.
        """
        self.diagnostics.on_checkpoint(self.state.step, self.model)
        self.dist.broadcast_buffers(self.model)
        step, path = self.state.step, self.run.path
        if step_dir(path, step) == self.run.resume_from:
            return
        trainer = self._trainer_state()
        if self.dist.is_main:
            self.writer.wait()
            widths = self.pruning.changed_widths()
            self.writer.submit(
                prepare_checkpoint(path, step, self.model, trainer, self.components.config, self.components.info, widths)
            )
            if step == 0:  # complete before the first image is read, which may end the run
                self.writer.wait()

    def evaluate(self) -> None:
        """Evaluate on the validation set, unless this step has scores.

        Every rank evaluates its part of the images. Rank 0 stores the result.
        """
        step, path = self.state.step, self.run.path
        if self.dist.run_on_rank0(lambda: read_scores(step_dir(path, step))):
            return
        message = f"stopped while evaluating step {step}; resume with resume=auto or resume={path}"
        result = evaluate(
            self.model,
            self.components.val_set,
            self.components.info,
            self.components.loss,
            lambda done: self.stop.check(message),
            distributed=self.dist,
            device=self.precision.device.type,  # type: ignore[arg-type]
            precision=self.precision.name,
            workers=self.settings.workers,
        )
        self.writer.wait()
        try:
            self.diagnostics.on_evaluation(step, result.scores.loss, result.confusion, self.components.info.classes)
        except Diverged:
            if self.dist.is_main:
                delete_newest(path)  # resuming would evaluate it again
            raise
        if self.dist.is_main:
            val_set, info = self.components.val_set, self.components.info
            panels = prediction_panels(
                self.model, val_set, info, self.precision, result.per_image_counts, self.settings.num_val_images
            )
            store_scores(path, self.state, result, self.log, panels, info, self.pruning.stages_done)

    def log_step(self) -> None:
        """Log the means since the last row and warnings about them."""
        loss, waiting = log_step(self.state, self.optimizer, self.log)
        self.diagnostics.on_log(loss, waiting)

    def delete_old_checkpoints(self) -> None:
        """Delete checkpoints on rank 0 that are neither recent, best nor last.

        They are deleted once the newest one is complete.
        """
        if self.dist.is_main:
            self.writer.submit(partial(delete_old, self.run.path, self.settings.keep_checkpoints))

    def should_stop(self) -> bool:
        """Return True after the last step or at an early stop."""
        return self.state.step == self.plan.total_steps or self.dist.run_on_rank0(self._out_of_patience)

    def _out_of_patience(self) -> bool:
        best, patience = read_pointer(self.run.path, "best"), self.settings.early_stopping_patience
        if patience is None or best is None or not self.plan.evaluates_at(self.state.step):
            return False
        if self.pruning.remaining_stages:
            return False  # only a fully pruned network may end the run
        stale = self.log.count_rows("val", after=int(best.name))  # at whatever interval
        if stale >= patience:
            self.log.info(
                f"no better mIoU in {stale} evaluations, stopping at step {self.state.step}; "
                "early_stopping_patience=null runs to the end"
            )
        return stale >= patience

    def finish(self) -> PlainDict:
        """Return the summary of the run, the same on every rank."""
        return self.dist.run_on_rank0(lambda: run_summary(self.run.path, self.state, self.model))

    def _trainer_state(self) -> PlainDict:
        """Collect the state except the weights in plain containers and tensors.

        Every rank calls it.
        """
        state = self.state
        cuda = [torch.cuda.get_rng_state()] if self.precision.uses_cuda else []
        return {
            "step": state.step,
            "images_seen": state.images,
            "seconds": state.minutes * 60,
            "nonfinite_steps": state.nonfinite_steps,
            "loss_meters": state.loss_meters.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "ema": self.ema.state(),
            "keep_ratio": self.pruning.keep_ratio,
            "rng": self.dist.gather({"cpu": torch.get_rng_state(), "cuda": cuda}),  # one per rank
        }
