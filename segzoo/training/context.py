"""What one process holds while it trains, and what it does between steps: save, score, give up, end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from segzoo.checkpoints.serialization import read_scores, save_checkpoint
from segzoo.checkpoints.store import delete_old, read_pointer, step_dir
from segzoo.device import Precision
from segzoo.distributed import Distributed
from segzoo.evaluation.evaluator import evaluate
from segzoo.optim.ema import ModelEma
from segzoo.runs.run_dir import RunDir
from segzoo.runs.signals import StopSignal
from segzoo.training.components import TrainingSettings
from segzoo.training.diagnostics import TrainingDiagnostics
from segzoo.training.logger import MetricLogger
from segzoo.training.pruning import ScheduledPruning
from segzoo.training.results import log_predictions, run_summary, save_prediction_grid, store_scores
from segzoo.training.state import TrainingState, trainer_state_dict

if TYPE_CHECKING:
    from segzoo.training.components import TrainingComponents


@dataclass
class TrainingContext:
    """The objects of a running training, each documented in its room."""

    components: TrainingComponents
    run: RunDir
    settings: TrainingSettings
    precision: Precision
    dist: Distributed
    stop: StopSignal
    model: nn.Module
    optimizer: Optimizer
    ema: ModelEma
    pruning: ScheduledPruning
    state: TrainingState
    log: MetricLogger
    diagnostics: TrainingDiagnostics

    def save_checkpoint(self) -> None:
        """Writes the checkpoint of this step, on rank 0; the model holds what is to be evaluated. Every rank calls it."""
        self.dist.broadcast_buffers(self.model)
        if step_dir(self.run.path, self.state.step) == self.run.resume_from:
            return
        state = trainer_state_dict(self.state, self.optimizer, self.precision.scaler, self.ema, self.pruning.keep_ratio, self.dist)
        if self.dist.is_main:
            save_checkpoint(
                self.run.path,
                self.state.step,
                self.model,
                state,
                self.components.config,
                self.components.info,
                self.pruning.widths(),
            )

    def evaluate(self) -> None:
        """Scores the validation set unless this step has its scores; every rank takes its share, rank 0 keeps the outcome."""
        if self.dist.run_on_rank0(lambda: read_scores(step_dir(self.run.path, self.state.step))):
            return
        goodbye = f"stopped while evaluating step {self.state.step}; go on with resume=auto or resume={self.run.path}"
        how: Any = {"device": self.precision.device.type, "precision": self.precision.name, "workers": self.settings.workers}
        parts = self.components
        result = evaluate(
            self.model, parts.val_set, parts.info, parts.loss, lambda done: self.stop.check(goodbye), world=self.dist, **how
        )
        self.diagnostics.on_evaluation(result.confusion, parts.info.classes)
        if self.dist.is_main:
            store_scores(self.run.path, self.state, result, self.log, len(self.pruning.stages) - len(self.pruning.remaining_stages))
            log_predictions(
                self.log, self.state.step, self.model, parts.val_set, parts.info, self.settings.num_val_images, self.precision
            )

    def delete_old_checkpoints(self) -> None:
        """Removes checkpoints that need not be kept, on rank 0."""
        if self.dist.is_main:
            delete_old(self.run.path, self.settings.keep_checkpoints)

    def should_stop(self) -> bool:
        """Whether this was the last step, or the last ``early_stopping_patience`` evaluations brought no better score."""
        return self.state.step == self.settings.total or self.dist.run_on_rank0(self._out_of_patience)

    def _out_of_patience(self) -> bool:
        leader, every = read_pointer(self.run.path, "best"), self.settings.eval_every
        if self.settings.early_stopping_patience is None or leader is None or not self.settings.evaluates(self.state.step):
            return False
        if self.pruning.remaining_stages:
            return False  # it has not lost all it is to lose
        since = self.state.step // every - int(leader.name) // every
        if since >= self.settings.early_stopping_patience:
            self.log.info(
                f"no better mIoU in {since} evaluations, ending at step {self.state.step}; early_stopping_patience=null runs to the end"
            )
        return since >= self.settings.early_stopping_patience

    def finish(self) -> dict[str, Any]:
        """The last images, and what the run came to, the same on every rank."""
        if self.dist.is_main:
            sheet = self.run.path / "vis" / "val.png"
            save_prediction_grid(
                sheet, self.model, self.components.val_set, self.components.info, self.settings.num_val_images, self.precision
            )
        return self.dist.run_on_rank0(lambda: run_summary(self.run.path, self.state, self.model))
