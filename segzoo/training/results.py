"""What a training leaves behind for people: rows of the log, the best checkpoint's scores, images, the result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from segzoo.checkpoints.serialization import add_scores, read_scores
from segzoo.checkpoints.store import MODEL, checkpoint_rank, read_manifest, read_pointer, step_dir, update_best
from segzoo.device import Precision
from segzoo.evaluation.evaluator import Evaluation
from segzoo.evaluation.report import score_line, write_summary
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import segment_image
from segzoo.io import write_atomically
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.training.diagnostics import TrainingDiagnostics
from segzoo.training.logger import MetricLogger
from segzoo.training.state import TrainingState
from segzoo.types import Dataset, DatasetInfo
from segzoo.visualization import comparison_panel, image_grid


def log_step(log: MetricLogger, at: TrainingState, optimizer: Optimizer, watch: TrainingDiagnostics) -> None:
    """The row of a training step: means since the last row, the rates of this step, and where the time went."""
    rates = {f"lr/{group.get('name', number)}": group["lr"] for number, group in enumerate(optimizer.param_groups)}
    values, clock = at.loss_meters.pop(), at.time_meters.pop()
    waiting = clock["waited"] / max(clock["seconds"], 1e-9)
    images_per_s = clock["images"] / max(clock["seconds"], 1e-9)
    log.write(at.step, at.epoch, "train", values | rates)
    log.write(at.step, at.epoch, "time", {"step_s": clock["seconds"], "data_share": waiting, "images_per_s": images_per_s})
    log.log_progress(at.step, at.epoch, values.get("loss", math.nan), max(rates.values()), images_per_s, waiting)
    watch.on_log(values.get("loss", math.nan), waiting)


def store_scores(run: Path, at: TrainingState, result: Evaluation, log: MetricLogger, stages: int = 0) -> None:
    """Adds an evaluation to the log and to its checkpoint; the best one so far is written to ``eval/`` and pointed at.

    ``stages`` of pruning lie behind the network; one that has more of them is better than any that has fewer.

    The manifest comes last: until it holds the scores, a run that was killed here evaluates again and writes the same once more.
    """
    folder, scores = step_dir(run, at.step), result.scores
    leader = read_pointer(run, "best")
    before = read_scores(leader) if leader else None
    kept = scores.to_dict() | {"stages": stages}
    best = before is None or checkpoint_rank(kept) > checkpoint_rank(before)
    if best:
        write_summary(run / "eval", result, read_manifest(folder)["files"][MODEL]["sha256"])
    means = {"loss": scores.loss, "mIoU": scores.miou, "mAcc": scores.macc, "aAcc": scores.aacc, "fwIoU": scores.fwiou}
    ious = {f"IoU/{name}": entry["iou"] for name, entry in scores.per_class.items()}
    log.write(at.step, at.epoch, "val", means | ious | {"minutes": round(at.minutes, 2)})
    log.info(f"step {at.step}: {score_line(scores)}{'  (best)' if best else ''}")
    add_scores(folder, kept | {"protocol": result.protocol, "protocol_id": result.protocol_id})
    update_best(run)


def log_predictions(
    log: MetricLogger, step: int, model: nn.Module, dataset: Dataset, info: DatasetInfo, count: int, formats: Precision
) -> None:
    """Puts predictions on some validation images, beside the truth, into TensorBoard."""
    for name, picture in predict_samples(model, dataset, info, count, formats):
        log.image(f"images/val/{name}", picture, step)


def save_prediction_grid(path: Path, model: nn.Module, dataset: Dataset, info: DatasetInfo, count: int, formats: Precision) -> None:
    """Writes the same images on one page, as PNG; none if ``count`` is 0."""
    from PIL import Image

    pictures = [picture for _, picture in predict_samples(model, dataset, info, count, formats)]
    if pictures:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: Image.fromarray(image_grid(pictures)).save(file, "PNG"))


@torch.no_grad()
def predict_samples(
    model: nn.Module, dataset: Dataset, info: DatasetInfo, count: int, formats: Precision
) -> list[tuple[str, np.ndarray]]:
    """Name and triptych of ``count`` images spread evenly over a data set."""
    found = []
    with eval_mode(model):
        for index in sorted({number * len(dataset) // count for number in range(count)}):
            sample = dataset[index]
            picture = torch.from_numpy(sample.image)[None]
            label = (
                segment_image(model, normalize(picture, info, formats.device), picture, InferenceProtocol(), formats)[0]
                .cpu()
                .numpy()
            )
            found.append((sample.name, comparison_panel(sample.image, sample.label, label, info, sample.name)))
    return found


def run_summary(run: Path, at: TrainingState, model: nn.Module) -> dict[str, Any]:
    """What the run came to: the scores of its best and last checkpoint, and what it took."""
    best = update_best(run) or 0
    scores, last = read_scores(step_dir(run, best)) or {}, read_scores(step_dir(run, at.step)) or {}
    return {
        "finished": True,
        **{key: scores[key] for key in ("miou", "macc", "aacc", "fwiou", "loss", "classes_present", "protocol_id")},
        "best_step": best,
        "last_miou": last["miou"],
        "steps": at.step,
        "images_seen": at.images,
        "train_minutes": round(at.minutes, 2),
        "params": sum(parameter.numel() for parameter in model.parameters()),
    }
