"""One evaluator for the trainer and for the tool: one confusion matrix over whole label maps at the label's own size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from segzoo.data.loader import eval_batches
from segzoo.device import Precision, pick_device
from segzoo.distributed import SINGLE_PROCESS, Distributed
from segzoo.evaluation.bootstrap import bootstrap_miou
from segzoo.evaluation.metrics import ConfusionMatrix
from segzoo.inference.protocol import InferenceProtocol, PostProcessor
from segzoo.inference.segment import forward, logits_to_labels, segment_image
from segzoo.layers.modes import eval_mode
from segzoo.layers.normalize import normalize
from segzoo.registry import Range
from segzoo.types import Batch, DataError, Dataset, DatasetInfo, Scores


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a data set, the counts behind them, and how they were taken.

    Attributes:
        scores: what the counts come to.
        confusion: int64 (K, K), row = label, column = prediction.
        protocol: mode, scales, flip and the rest; see ``infer.Protocol``.
        protocol_id: its short hash. Scores of different ids must not be ranked.
        images: int64 (N, 3, K): of each image and class the pixels hit, labeled and predicted.
        precision: number format of the layers, such as ``bf16``.
    """

    scores: Scores
    confusion: np.ndarray
    protocol: dict[str, Any]
    protocol_id: str
    per_image_counts: np.ndarray
    precision: str

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mIoU over images like these."""
        return bootstrap_miou(self.per_image_counts)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Dataset,
    info: DatasetInfo,
    loss: Any = None,
    between: Callable[[int], None] = lambda done: None,
    post: PostProcessor | None = None,
    world: Distributed = SINGLE_PROCESS,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32",
    workers: Annotated[int, Range(0)] = 2,
    mode: Literal["whole", "slide"] = "whole",
    crop: Annotated[tuple[int, int], Range(1)] | None = None,
    stride: Annotated[tuple[int, int], Range(1)] | None = None,
    scales: Annotated[tuple[float, ...], Range(0, None, above=True)] = (1.0,),
    flip: bool = False,
) -> Evaluation:
    """Scores a model on every image of a data set, at the size of its label.

    A single pass takes labels from logits grown in strips of rows, so memory does not grow with classes times pixels. Windows, several
    scales and mirroring average softmax probabilities over all passes. The model's modules keep their modes and batch-norm statistics.

    Args:
        model: ``forward(x) -> Logits``, with ``align_corners`` and ``num_classes``.
        dataset: labeled images; their sizes may differ.
        info: classes, normalization and ignore id the model was trained with.
        loss: taken on the same pass, as the mean over all valid pixels of the data set; None, or any protocol but a single pass: no loss.
        between: called after each image with its number, counted from 1; may raise to stop.
        post: ``post(image, probabilities) -> labels`` with ``describe()``, such as a CRF; None takes the most probable class.
        world: ranks that each take their share of the images; all of them get the scores of the whole set.
        device: where the model runs.
        precision: number format of the layers.
        workers: processes that read images; 0 reads in this one.
        mode: ``whole`` images, or ``slide``: overlapping windows.
        crop: window (H, W) in pixels, for ``slide``.
        stride: step (H, W) from window to window; None is two thirds of the crop.
        scales: factors of the image's size.
        flip: average over the mirrored image too.

    Raises:
        ConfigError: settings that contradict each other, or no CUDA for ``device=cuda``.
        DataError: a file is invalid or its label does not fit the classes; the message names it.
    """
    protocol = InferenceProtocol(mode, crop, stride, tuple(scales), flip, post)
    place = pick_device(device)
    formats = Precision(precision, place)
    matrix, losses = ConfusionMatrix(info.num_classes, info.ignore), _MeanLoss(loss if protocol.single else None)
    pictures = np.zeros((len(dataset), 3, info.num_classes), np.int64)
    model.to(place)
    share = eval_batches(dataset, workers=workers, rank=world.rank, world=world.size)
    with eval_mode(model), closing(share) as batches:
        for batch in _batch_iterator(batches, len(dataset) // world.size):
            try:
                one = ConfusionMatrix(info.num_classes, info.ignore)
                one.update(_labels(model, batch, info, protocol, formats, losses), batch.label)
            except ValueError as error:
                raise DataError(f"{', '.join(batch.names)}: {error}") from error
            matrix.merge(one)
            pictures[batch.indices[0]] = one.matrix.diagonal(), one.matrix.sum(1), one.matrix.sum(0)
            between(batch.indices[0] + 1)
    matrix.matrix, pictures = (world.sum(torch.from_numpy(counts).to(place)).cpu().numpy() for counts in (matrix.matrix, pictures))
    scores = matrix.scores(info.classes, len(dataset), losses.mean(world))
    return Evaluation(scores, matrix.matrix, protocol.to_dict(), protocol.id, pictures, formats.name)


class _MeanLoss:
    """The loss over all valid pixels of the data set: each image's loss counts by the weight of its valid pixels."""

    def __init__(self, loss: Any):
        self.loss, self.total, self.weight = loss, 0.0, 0.0

    def add(self, logits: Any, label: Tensor) -> None:
        if self.loss is not None:
            weight = float(self.loss.weight(label, logits)[0])
            self.total += float(self.loss(logits, label)) * weight
            self.weight += weight

    def mean(self, world: Distributed) -> float | None:
        total, weight = (sum(values) for values in zip(*world.gather((self.total, self.weight)), strict=True))
        return total / weight if weight else None


def _labels(
    model: nn.Module, batch: Batch, info: DatasetInfo, protocol: InferenceProtocol, formats: Precision, losses: _MeanLoss
) -> Tensor:
    """The label map of an image, on the CPU; its loss is taken on the way."""
    x = normalize(batch.image, info, formats.device)
    if not protocol.single:
        return segment_image(model, x, batch.image, protocol, formats).to(torch.int32).cpu()
    logits = forward(model, x, formats)
    losses.add(logits, batch.label.to(formats.device))
    return logits_to_labels(model, logits, batch.label.shape[-2:]).cpu()


def _batch_iterator(batches: Iterator[Batch], count: int) -> Iterable[Batch]:
    from tqdm import tqdm

    return tqdm(batches, total=count, unit="picture", desc="evaluating", leave=False, disable=not sys.stderr.isatty())
