"""Log rows, scores, predictions and summary of a training."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from segzoo.checkpoints.schema import MODEL, CheckpointError
from segzoo.checkpoints.serialization import add_scores, read_scores
from segzoo.checkpoints.store import checkpoint_rank, list_checkpoints, read_manifest, read_pointer, step_dir, update_best
from segzoo.device import FloatFormat, Precision
from segzoo.evaluation.bootstrap import mean_iou
from segzoo.evaluation.evaluator import Evaluation
from segzoo.evaluation.fingerprint import hash_names, image_names
from segzoo.evaluation.metrics import COUNTS
from segzoo.evaluation.report import score_line, write_summary
from segzoo.inference.protocol import SINGLE_PASS
from segzoo.inference.segment import segment_image
from segzoo.io import write_atomically
from segzoo.layers.modes import channels_last, eval_mode
from segzoo.layers.normalize import normalize
from segzoo.layers.parameters import count_parameters
from segzoo.registry import ConfigError
from segzoo.training.logger import MetricLogger
from segzoo.training.state import TrainingState
from segzoo.types import Dataset, DatasetInfo, PlainDict, PlainMapping
from segzoo.visualization.panels import comparison_grid, comparison_panel


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


def store_scores(
    run: Path,
    state: TrainingState,
    result: Evaluation,
    log: MetricLogger,
    panels: Sequence[PredictionPanel],
    info: DatasetInfo,
    stages_done: int = 0,
) -> None:
    """Log an evaluation and store its scores with the checkpoint.

    Updates the best checkpoint, ``eval/`` and ``vis/val.png`` as well. The scores are added to the manifest after everything else is
    written, so a run killed before that evaluates again and writes the same results.

    Args:
        run: the run directory.
        state: progress of the run.
        result: the evaluation of this step's checkpoint.
        log: the log of the run.
        panels: predictions of this checkpoint.
        info: classes and palette of the panels.
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
        save_prediction_grid(run / "vis" / "val.png", panels, info, f"best checkpoint, step {state.step}: {score_line(scores)}")
    means = {"loss": scores.loss, "mIoU": scores.miou, "mAcc": scores.macc, "aAcc": scores.aacc, "fwIoU": scores.fwiou}
    ious = {f"IoU/{name}": entry["iou"] for name, entry in scores.per_class.items()}
    log.write(state.step, state.epoch, "val", means | ious | {"minutes": round(state.minutes, 2)})
    for panel in panels:
        log.image(f"images/val/{panel.tag}", comparison_grid([panel.image], [panel.labels], info), state.step)
    log.info(f"step {state.step}: {score_line(scores)}  protocol {result.protocol_id}{'  (best)' if is_best else ''}")
    add_scores(checkpoint, stored | {"protocol": result.protocol, "protocol_id": result.protocol_id})
    update_best(run)


def check_validation_images(run: Path, val_set: Dataset) -> None:
    """Require the validation images that a run's scores belong to.

    The best checkpoint and early stopping compare the scores of all steps. Only names are compared, and scores from before they were
    stored are accepted.

    Raises:
        ConfigError: a checkpoint was scored on other images.
    """
    names = image_names(val_set)
    for step in reversed(list_checkpoints(run)):
        scored = _protocol(step_dir(run, step))
        if scored.get("names") in (None, hash_names(names)):
            continue
        before, now = scored.get("images"), len(names)
        change = f"from {before} to {now}" if before != now else f"{now} of other names or in another order"
        raise ConfigError(
            f"{run}: the validation images have changed since step {step} ({change}), so new scores cannot be compared with those of the "
            f"run. Restore them, or set another out: resume={quote(str(run))} out=<new directory>"
        )


def precision_note(run: Path, precision: FloatFormat) -> str | None:
    """Note that a run's best score was computed in another precision."""
    best = read_pointer(run, "best")
    before = None if best is None else _protocol(best).get("precision")
    if before in (None, precision):
        return None
    return (
        f"the best score so far was computed in {before} and new ones are in {precision}, so they differ slightly for equal weights"
    )


def _protocol(checkpoint: Path) -> PlainMapping:
    """Protocol of a checkpoint's scores, empty if it is not known."""
    try:
        return (read_scores(checkpoint) or {}).get("protocol") or {}
    except CheckpointError:
        return {}


def discard_lost_scores(run: Path) -> None:
    """Remove ``eval/`` if its checkpoint is no longer the best.

    A run that resumes from an older checkpoint, because newer ones are damaged, has lost it. ``tools/eval.py`` scores the best one again.
    """
    best, summary = read_pointer(run, "best"), run / "eval" / "summary.json"
    if summary.is_file():
        scored = json.loads(summary.read_text(encoding="utf-8")).get("checkpoint_sha256")
        if best is None or read_manifest(best)["files"][MODEL]["sha256"] != scored:
            shutil.rmtree(summary.parent)


class PredictionPanel(NamedTuple):
    """A validation image with its ground truth and prediction.

    Attributes:
        tag: name in the loggers.
        image: the panel, (h, w, 3) uint8.
        labels: ground truth and prediction, (H, W) train ids each.
    """

    tag: str
    image: np.ndarray
    labels: tuple[np.ndarray, np.ndarray]


@torch.no_grad()
def prediction_panels(
    model: nn.Module, dataset: Dataset, info: DatasetInfo, precision: Precision, counts: np.ndarray, number: int
) -> list[PredictionPanel]:
    """Predict the images that ``choose_images`` selects.

    Args:
        model: the evaluated model.
        dataset: the validation set.
        info: classes and palette.
        precision: number format and device.
        counts: ``per_image_counts`` of the evaluation.
        number: how many images to show.
    """
    panels = []
    chosen, worst = choose_images(counts, number)
    with eval_mode(model), channels_last(model):
        for index in [*chosen, *([worst] if number and worst not in chosen else [])]:
            sample = dataset[index]
            image = torch.from_numpy(sample.image)[None]
            x = normalize(image, info, precision.device)
            label = segment_image(model, x, image, SINGLE_PASS, precision)[0].cpu().numpy()
            score = f"mIoU {100 * mean_iou(counts[index]):.1f}" + (", the worst" if index == worst else "")
            captions = (f"{sample.name}: {score}", "ground truth", "prediction", "errors")
            panel = comparison_panel(sample.image, sample.label, label, info, captions)
            panels.append(PredictionPanel(sample.name if index in chosen else "worst", panel, (sample.label, label)))
    return panels


def choose_images(counts: np.ndarray, number: int) -> tuple[list[int], int]:
    """Choose images that together show every class, and find the worst.

    The first images depend only on the labels, so they are the same in every evaluation.

    Args:
        counts: (N, 3, K), ``per_image_counts`` of an evaluation.
        number: how many images to show, the worst included.

    Returns:
        The indices of up to ``number - 1`` images, and that of the image with the lowest mIoU.
    """
    labeled = counts[:, COUNTS.index("labeled")] > 0
    missing, chosen = labeled.any(0), []
    spread = [position * len(counts) // max(number, 1) for position in range(number)]
    while len(chosen) < min(number - 1, len(counts)):
        new_classes = (labeled & missing).sum(1)
        rest = [index for index in (*spread, *range(len(counts))) if index not in chosen]
        chosen.append(int(new_classes.argmax()) if new_classes.any() else rest[0])
        missing &= ~labeled[chosen[-1]]
    scores = np.where(labeled.any(1), mean_iou(counts), np.inf)
    return chosen, int(scores.argmin())


def save_prediction_grid(path: Path, panels: Sequence[PredictionPanel], info: DatasetInfo, title: str) -> None:
    """Write prediction panels as one PNG, if there are any."""
    from PIL import Image

    if panels:
        path.parent.mkdir(parents=True, exist_ok=True)
        grid = comparison_grid([panel.image for panel in panels], [panel.labels for panel in panels], info, title)
        write_atomically(path, lambda file: Image.fromarray(grid).save(file, "PNG"))


def run_summary(run: Path, state: TrainingState, model: nn.Module) -> PlainDict:
    """Summarize a finished run.

    The summary has the scores of the best and the last checkpoint, the length of the run and the number of parameters without
    training-only heads.
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
