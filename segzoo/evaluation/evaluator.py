"""The evaluator used by training and by the eval tool.

It fills one confusion matrix from label maps at the original label size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from segzoo.data.loader import eval_batches
from segzoo.data.paired_dataset import PairedDataset
from segzoo.data.splitting.grouping import group_names
from segzoo.device import DeviceName, FloatFormat, Precision, PrecisionName, Workers, pick_device, pick_workers
from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.evaluation.bootstrap import bootstrap_miou, counts_by_group
from segzoo.evaluation.fingerprint import check_equal_images, data_fingerprint, image_names, short_hash
from segzoo.evaluation.mean_loss import MeanLoss
from segzoo.evaluation.metrics import COUNTS, ConfusionMatrix, Scores
from segzoo.evaluation.scores._base import ImageScore, ScoreResult, check_probabilities, merged_results, rows_reader, update_scores
from segzoo.inference.exported.network import ExportedNetwork
from segzoo.inference.passes.forward_pass import forward, size_of
from segzoo.inference.protocol import SINGLE_PASS, InferenceProtocol
from segzoo.inference.segment import OnRows, label_logits, segment_image
from segzoo.layers.modes import channels_last, eval_mode
from segzoo.layers.normalize import normalize
from segzoo.losses._base import downsample_labels
from segzoo.messages import printable
from segzoo.progress import with_progress
from segzoo.types import Batch, DataError, Dataset, DatasetInfo, PlainDict, SegmentationLoss


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model, with their counts and protocol.

    Attributes:
        scores: the scores computed from the counts.
        confusion: int64 (K, K), row = label, column = prediction.
        protocol: what the scores depend on besides the model: settings, precision and data.
        per_image_counts: int64 (N, 3, K), the hit, labeled and predicted pixels of each image and class.
        names: names of the images, in the order of the counts.
        extra: results of the optional scores by name.
        errors: int64 (M, 4), the image, label, prediction and pixels of each pair of classes confused in an image.
        group_by: pattern of the groups that the interval draws, None if it draws single images.
    """

    scores: Scores
    confusion: np.ndarray
    protocol: PlainDict
    per_image_counts: np.ndarray
    names: tuple[str, ...]
    extra: dict[str, ScoreResult] = field(default_factory=dict)
    errors: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    group_by: str | None = None

    @property
    def precision(self) -> FloatFormat:
        """Precision of the layers."""
        return self.protocol["precision"]

    @cached_property
    def protocol_id(self) -> str:
        """Short hash of the protocol.

        Scores with different ids must not be ranked against each other.
        """
        return short_hash(json.dumps(self.protocol, sort_keys=True).encode())

    @cached_property
    def drawn_counts(self) -> np.ndarray:
        """Counts int64 (G, 3, K) of the images or groups to draw."""
        return counts_by_group(self.per_image_counts, self.names, self.group_by)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap 95 % confidence interval of the mIoU, None for few images."""
        return bootstrap_miou(self.drawn_counts)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Dataset,
    info: DatasetInfo,
    loss: SegmentationLoss | None = None,
    on_image: Callable[[int], None] = lambda done: None,
    protocol: InferenceProtocol = SINGLE_PASS,
    distributed: Distributed = SINGLE_PROCESS,
    extra: Sequence[ImageScore] = (),
    *,
    device: DeviceName = "auto",
    precision: PrecisionName = "fp32",
    workers: Workers = "auto",
    group_by: str | None = None,
) -> Evaluation:
    """Score a model on every image at the size of its label.

    Logits are upsampled and reduced to labels in strips of rows, so memory does not scale with classes times pixels unless the protocol
    has a ``post``. The model is left unchanged.

    Args:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``; or an ``ExportedNetwork``, which has no loss.
        dataset: labeled images, which may differ in size.
        info: classes, normalization and ignore id the model was trained with.
        loss: computed in the same pass, as the mean over all valid pixels of the data set, if the protocol has a single pass.
        on_image: called after each image with its number, counted from 1. It may raise to stop the evaluation.
        protocol: windows, scales, flip and post-processing.
        distributed: the ranks, which each evaluate a part of the images. All of them get the scores of the whole set.
        extra: optional scores, which are updated in the same pass.
        device, precision: device of the model, precision of its layers.
        workers: data loading processes, see ``pick_workers``. 0 loads in the main process.
        group_by: pattern of the groups that intervals draw together, as in ``group_names``. None if images are independent.

    Raises:
        ConfigError: ``device=cuda`` without CUDA, or a score needs what the model cannot return.
        DataError: a file is invalid, its label does not fit the classes, an image has no group, or the ranks find different images.
    """
    names = _checked_names(distributed, dataset, group_by)
    layer_precision = Precision(precision, pick_device(device))
    confusion = ConfusionMatrix(info.num_classes, info.ignore)
    mean_loss = None if loss is None or not protocol.single else MeanLoss(loss)
    per_image_counts, errors = np.zeros((len(dataset), len(COUNTS), info.num_classes), np.int64), ImageErrors()
    processes = pick_workers(workers, layer_precision.device)
    model.to(layer_precision.device)
    rank, size = distributed.rank, distributed.size
    rank_batches = eval_batches(dataset, workers=processes, rank=rank, world_size=size, pin=layer_precision.uses_cuda)
    with eval_mode(model), channels_last(model), closing(rank_batches) as batches:
        for batch in with_progress(batches, len(dataset) // distributed.size, "images", "evaluating"):
            counted = _count_image(model, batch, dataset, info, protocol, layer_precision, mean_loss, extra)
            confusion.merge(counted)
            per_image_counts[batch.indices[0]] = counted.class_counts()
            errors.add(batch.indices[0], counted)
            on_image(batch.indices[0] + 1)
    confusion.matrix = _sum_over_ranks(confusion.matrix, distributed, layer_precision.device)
    per_image_counts = _sum_over_ranks(per_image_counts, distributed, layer_precision.device)
    scores = confusion.scores(info.classes, len(dataset), mean_loss and mean_loss.compute(distributed))
    used_precision = model.precision if isinstance(model, ExportedNetwork) else layer_precision.name
    described = protocol.to_dict() | {"precision": used_precision} | data_fingerprint(dataset.info.name, names, per_image_counts)
    results = merged_results(extra, distributed)
    return Evaluation(scores, confusion.matrix, described, per_image_counts, names, results, errors.merged(distributed), group_by)


def _checked_names(distributed: Distributed, dataset: Dataset, group_by: str | None) -> tuple[str, ...]:
    """Names of the images, equal on all ranks, each with a group."""
    check_equal_images(distributed, dataset)
    names = image_names(dataset)
    group_names(names, group_by, "group_by")
    return names


class ImageErrors:
    """The pairs of classes that are confused in each image."""

    def __init__(self) -> None:
        self._tables = [np.zeros((0, 4), np.int64)]

    def add(self, index: int, counted: ConfusionMatrix) -> None:
        """Add the errors of an image."""
        self._tables.append(np.insert(counted.errors(), 0, index, axis=1))

    def merged(self, distributed: Distributed = SINGLE_PROCESS) -> np.ndarray:
        """Collect ``Evaluation.errors`` from all ranks, image by image."""
        tables = [table for own in distributed.gather(self._tables) for table in own]
        return np.concatenate(sorted(tables, key=lambda table: int(table[0, 0]) if len(table) else -1))


def _count_image(
    model: nn.Module,
    batch: Batch,
    dataset: Dataset,
    info: DatasetInfo,
    protocol: InferenceProtocol,
    precision: Precision,
    mean_loss: MeanLoss | None,
    extra: Sequence[ImageScore],
) -> ConfusionMatrix:
    """Predict one image, count its pixels and update the optional scores."""
    check_probabilities(extra, model)
    confusion = ConfusionMatrix(info.num_classes, info.ignore)
    try:
        if protocol.label_size == "input":
            size = protocol.output_size(size_of(batch.label))
            batch = batch._replace(label=downsample_labels(batch.label, size, align_corners=False))
        pred = _predict(model, batch, info, protocol, precision, mean_loss, rows_reader(extra, batch))
        confusion.update(pred, batch.label)
        update_scores(extra, batch, pred, info.ignore)
    except ValueError as error:
        raise DataError(f"{_location(dataset, batch.indices[0])}: {error}") from error
    return confusion


def _location(dataset: Dataset, index: int) -> str:
    """Path of an image, or its name if it has no file."""
    return printable(dataset.scan()[index].image) if isinstance(dataset, PairedDataset) else dataset.name(index)


def _predict(
    model: nn.Module,
    batch: Batch,
    info: DatasetInfo,
    protocol: InferenceProtocol,
    precision: Precision,
    mean_loss: MeanLoss | None,
    on_rows: OnRows | None,
) -> Tensor:
    """Predict the label map of one image and add its loss.

    Returns:
        The labels (1, H, W) on the CPU.
    """
    x = normalize(batch.image, info, precision.device)
    size = batch.label.shape[-2], batch.label.shape[-1]
    if not protocol.single or isinstance(model, ExportedNetwork):
        return segment_image(model, x, batch.image, protocol, precision, on_rows).to(torch.int32).cpu()
    logits = forward(model, x, precision)
    if mean_loss is not None:
        mean_loss.add(logits, batch.label.to(precision.device))
    return label_logits(model, logits, size, on_rows).cpu()


def _sum_over_ranks(counts: np.ndarray, distributed: Distributed, device: torch.device) -> np.ndarray:
    """Sum counts over all ranks, on the device for NCCL."""
    return distributed.sum(torch.from_numpy(counts).to(device)).cpu().numpy()
