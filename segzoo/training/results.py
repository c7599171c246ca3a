"""Log rows, scores, predictions and summary of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from segzoo.checkpoints.schema import MODEL
from segzoo.checkpoints.serialization import add_scores, read_scores
from segzoo.checkpoints.store import checkpoint_rank, read_manifest, read_pointer, step_dir, update_best
from segzoo.device import Precision
from segzoo.evaluation.evaluator import Evaluation
from segzoo.evaluation.report import score_line, write_summary
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import segment_image
from segzoo.io import write_atomically
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.layers.parameters import count_parameters
from segzoo.training.logger import MetricLogger
from segzoo.training.state import TrainingState
from segzoo.types import Dataset, DatasetInfo, PlainDict
from segzoo.visualization import comparison_panel, image_grid


def log_step(state: TrainingState, optimizer: Optimizer, log: MetricLogger) -> tuple[float, float]:
    """Log mean losses, learning rates of this step, and mean timings.

    The rate is logged as ``lr``, or as ``lr/<group>`` if the parameter groups differ in it.

    Returns:
        The mean loss since the last row, and the fraction of the time spent waiting for data.
    """
    rates = {f"lr/{group.get('name', number)}": group["lr"] for number, group in enumerate(optimizer.param_groups)}
    if len(set(rates.values())) == 1:
        rates = {"lr": optimizer.param_groups[0]["lr"]}
    losses, times = state.loss_meters.pop(), state.time_meters.pop()
    waiting = times["waited"] / max(times["seconds"], 1e-9)
    images_per_s = times["images"] / max(times["seconds"], 1e-9)
    loss = losses.get("loss", math.nan)
    timings = {"step_s": times["seconds"], "data_wait_fraction": waiting, "images_per_s": images_per_s}
    log.write(state.step, state.epoch, "train", losses | rates)
    log.write(state.step, state.epoch, "time", timings)
    log.log_progress(state.step, state.epoch, loss, max(rates.values()), images_per_s, waiting)
    return loss, waiting


def store_scores(run: Path, state: TrainingState, result: Evaluation, log: MetricLogger, stages_done: int = 0) -> None:
    """Log an evaluation and store its scores with the checkpoint.

    Updates the best checkpoint and ``eval/`` as well. The scores are added to the manifest after the log and ``eval/`` are written, so a
    run killed before that evaluates again and writes the same results.

    Args:
        run: the run directory.
        state: progress of the run.
        result: the evaluation of this step's checkpoint.
        log: the log of the run.
        stages_done: completed pruning stages. A checkpoint with more of them ranks above any with fewer.
    """
    checkpoint, scores = step_dir(run, state.step), result.scores
    best = read_pointer(run, "best")
    best_scores = read_scores(best) if best else None
    stored = scores.to_dict() | {"stages": stages_done}
    is_best = best_scores is None or checkpoint_rank(stored) > checkpoint_rank(best_scores)
    log.best_miou = scores.miou if best_scores is None or is_best else best_scores["miou"]
    if is_best:
        write_summary(run / "eval", result, read_manifest(checkpoint)["files"][MODEL]["sha256"])
    means = {"loss": scores.loss, "mIoU": scores.miou, "mAcc": scores.macc, "aAcc": scores.aacc, "fwIoU": scores.fwiou}
    ious = {f"IoU/{name}": entry["iou"] for name, entry in scores.per_class.items()}
    log.write(state.step, state.epoch, "val", means | ious | {"minutes": round(state.minutes, 2)})
    log.info(f"step {state.step}: {score_line(scores)}{'  (best)' if is_best else ''}")
    add_scores(checkpoint, stored | {"protocol": result.protocol, "protocol_id": result.protocol_id})
    update_best(run)


def save_prediction_grid(path: Path, panels: Sequence[tuple[str, np.ndarray]]) -> None:
    """Write prediction panels as one PNG, if there are any."""
    from PIL import Image

    if panels:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = image_grid([panel for _, panel in panels])
        write_atomically(path, lambda file: Image.fromarray(grid).save(file, "PNG"))


@torch.no_grad()
def prediction_panels(
    model: nn.Module, dataset: Dataset, info: DatasetInfo, precision: Precision, count: int
) -> list[tuple[str, np.ndarray]]:
    """Predict ``count`` images spread evenly over a data set.

    Returns:
        The name of each, and a panel of image, ground truth and prediction, (H, W, 3) uint8.
    """
    panels = []
    with eval_mode(model):
        for index in sorted({number * len(dataset) // count for number in range(count)}):
            sample = dataset[index]
            image = torch.from_numpy(sample.image)[None]
            x = normalize(image, info, precision.device)
            label = segment_image(model, x, image, InferenceProtocol(), precision)[0].cpu().numpy()
            panels.append((sample.name, comparison_panel(sample.image, sample.label, label, info, sample.name)))
    return panels


def run_summary(run: Path, state: TrainingState, model: nn.Module) -> PlainDict:
    """Summarize a finished run.

    The summary has the scores of the best and the last checkpoint, the length of the run and the number of parameters.
    """
    best = update_best(run) or 0
    scores, last = read_scores(step_dir(run, best)) or {}, read_scores(step_dir(run, state.step)) or {}
    return {
        "finished": True,
        **{key: scores[key] for key in ("miou", "macc", "aacc", "fwiou", "loss", "classes_present", "protocol_id")},
        "best_step": best,
        "last_miou": last["miou"],
        "steps": state.step,
        "images_seen": state.images,
        "train_minutes": round(state.minutes, 2),
        "params": count_parameters(model),
    }
