"""The interface of optional scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from segzoo.distributed import Distributed
from segzoo.inference.exported.network import ExportedNetwork
from segzoo.inference.segment import OnRows
from segzoo.registry import ConfigError
from segzoo.types import Batch, PlainDict


class ScoredImage(NamedTuple):
    """The prediction and the ground truth of one image.

    Attributes:
        index, name: position in the data set, and name.
        pred: predicted train ids (H, W), the ignore id where the pixel is ignored.
        label: ground-truth train ids (H, W).
    """

    index: int
    name: str
    pred: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class ScoreResult:
    """Values, tables and lines of a score.

    Attributes:
        values: plain containers, stored in ``summary.json`` under the name of the score.
        tables: the rows of CSV files by file name, the header first.
        lines: sentences for the terminal.
    """

    values: PlainDict
    tables: dict[str, list[list[object]]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class ImageScore(Protocol):
    """A score that is updated image by image.

    Its state consists of integers and lists, so that neither the order of the images nor the number of ranks changes the result. It can
    be pickled, to be gathered from all ranks.

    Attributes:
        name: its name in the setting ``scores`` and in ``summary.json``.
    """

    name: str

    def update(self, image: ScoredImage) -> None:
        """Add one image."""
        ...

    def merge(self, other: Any) -> None:
        """Add the images of another rank."""
        ...

    def result(self) -> ScoreResult:
        """Compute the score of all images."""
        ...


@runtime_checkable
class ProbabilityScore(ImageScore, Protocol):
    """A score that also reads class probabilities.

    Attributes:
        needs_probabilities: whether it does with its settings.
    """

    needs_probabilities: bool

    def add_rows(self, probabilities: Tensor, label: np.ndarray) -> None:
        """Add the next rows of the image whose ``update`` follows.

        Rows come from top to bottom.

        Args:
            probabilities: (K, rows, W), on the model's device.
            label: ground-truth train ids (rows, W).
        """
        ...


def _probability_scores(scores: Sequence[ImageScore]) -> list[ProbabilityScore]:
    return [score for score in scores if isinstance(score, ProbabilityScore) and score.needs_probabilities]


def check_probabilities(scores: Sequence[ImageScore], model: nn.Module) -> None:
    """Raise ConfigError for scores of probabilities if a file has only labels."""
    names = [score.name for score in _probability_scores(scores)]
    if names and isinstance(model, ExportedNetwork) and not model.has_logits:
        raise ConfigError(
            f"scores: {', '.join(names)} read class probabilities, and the exported file returns only labels. Export it with output=both, "
            "or leave them out (blobs needs none with blob_curve=false)."
        )


def rows_reader(scores: Sequence[ImageScore], batch: Batch) -> OnRows | None:
    """Pass the probabilities of one image to all scores that read them.

    The network runs once, however many scores there are. None if no score reads probabilities.
    """
    reading, label, first = _probability_scores(scores), batch.label[0].numpy(), 0

    def read(probabilities: Tensor) -> None:
        nonlocal first
        end = first + probabilities.shape[1]
        for score in reading:
            score.add_rows(probabilities, label[first:end])
        first = end

    return read if reading else None


def update_scores(scores: Sequence[ImageScore], batch: Batch, pred: Tensor, ignore: int) -> None:
    """Update each score with the prediction (1, H, W) of one image."""
    if not scores:
        return
    label = batch.label[0].numpy()
    visible = np.where(label == ignore, label, pred[0].numpy())
    image = ScoredImage(batch.indices[0], batch.names[0], visible, label)
    for score in scores:
        score.update(image)


def merged_results(scores: Sequence[ImageScore], distributed: Distributed) -> dict[str, ScoreResult]:
    """Merge the scores of all ranks, and compute their results by name."""
    results = {}
    for score in scores:
        for rank, other in enumerate(distributed.gather(score)):
            if rank != distributed.rank:
                score.merge(other)
        results[score.name] = score.result()
    return results
