"""What one process holds while it trains, and what it does between steps: save, score, give up, end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from segzoo.checkpoints.serialization import save, scores_of
from segzoo.checkpoints.store import drop_old, pointed, step_folder
from segzoo.device import Precision
from segzoo.distributed import World
from segzoo.evaluation.evaluator import evaluate
from segzoo.optim.ema import Average
from segzoo.runs.run_dir import Run
from segzoo.runs.signals import StopRequest
from segzoo.training.components import Plan
from segzoo.training.diagnostics import Watch
from segzoo.training.logger import RunLog
from segzoo.training.pruning import Slimming
from segzoo.training.results import keep_scores, result_of, show_pictures, write_sheet
from segzoo.training.state import Progress, trainer_state

if TYPE_CHECKING:
    from segzoo.training.components import Parts


@dataclass
class Session:
    """The objects of a running training, each documented in its room."""

    parts: Parts
    run: Run
    plan: Plan
    formats: Precision
    world: World
    stop: StopRequest
    model: nn.Module
    optimizer: Optimizer
    average: Average
    slimming: Slimming
    at: Progress
    log: RunLog
    watch: Watch

    def store(self) -> None:
        """Writes the checkpoint of this step, on rank 0; the model holds what is to be evaluated. Every rank calls it."""
        self.world.share_buffers(self.model)
        if step_folder(self.run.folder, self.at.step) == self.run.resume_from:
            return
        state = trainer_state(self.at, self.optimizer, self.formats.scaler, self.average, self.slimming.share, self.world)
        if self.world.is_main:
            save(self.run.folder, self.at.step, self.model, state, self.parts.config, self.parts.card, self.slimming.widths())

    def score(self) -> None:
        """Scores the validation set unless this step has its scores; every rank takes its share, rank 0 keeps the outcome."""
        if self.world.first(lambda: scores_of(step_folder(self.run.folder, self.at.step))):
            return
        goodbye = f"stopped while evaluating step {self.at.step}; go on with resume=auto or resume={self.run.folder}"
        how: Any = {"device": self.formats.device.type, "precision": self.formats.name, "workers": self.plan.workers}
        parts = self.parts
        result = evaluate(
            self.model, parts.val_set, parts.card, parts.loss, lambda done: self.stop.check(goodbye), world=self.world, **how
        )
        self.watch.evaluation(result.confusion, parts.card.classes)
        if self.world.is_main:
            keep_scores(self.run.folder, self.at, result, self.log, len(self.slimming.stages) - len(self.slimming.left))
            show_pictures(self.log, self.at.step, self.model, parts.val_set, parts.card, self.plan.val_pictures, self.formats)

    def drop_old(self) -> None:
        """Removes checkpoints that need not be kept, on rank 0."""
        if self.world.is_main:
            drop_old(self.run.folder, self.plan.keep)

    def is_over(self) -> bool:
        """Whether this was the last step, or the last ``early_stop`` evaluations brought no better score."""
        return self.at.step == self.plan.total or self.world.first(self._out_of_patience)

    def _out_of_patience(self) -> bool:
        leader, every = pointed(self.run.folder, "best"), self.plan.eval_every
        if self.plan.early_stop is None or leader is None or not self.plan.evaluates(self.at.step):
            return False
        if self.slimming.left:
            return False  # it has not lost all it is to lose
        since = self.at.step // every - int(leader.name) // every
        if since >= self.plan.early_stop:
            self.log.say(f"no better mIoU in {since} evaluations, ending at step {self.at.step}; early_stop=null runs to the end")
        return since >= self.plan.early_stop

    def finish(self) -> dict[str, Any]:
        """The last pictures, and what the run came to, the same on every rank."""
        if self.world.is_main:
            sheet = self.run.folder / "vis" / "val.png"
            write_sheet(sheet, self.model, self.parts.val_set, self.parts.card, self.plan.val_pictures, self.formats)
        return self.world.first(lambda: result_of(self.run.folder, self.at, self.model))
