"""Data types and interfaces that packages share.

Imports neither torch nor NumPy at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

IGNORE = 255  # train id of pixels that no loss and no score counts


class DataError(ValueError):
    """An invalid file of a data set; the message names it and says what to do."""


class ParityError(RuntimeError):
    """An exported model that predicts other labels than the original."""


class Stage(NamedTuple):
    """A backbone stage: name (``c1`` to ``c5``), output channels, stride before dilation."""

    name: str
    channels: int
    stride: int


class Logits(NamedTuple):
    """The output of every model, in training and in evaluation.

    ``main`` is (N, K, h, w) at the model's own stride, fp32; ``aux`` holds training-only logits, empty in eval.
    """

    main: Tensor
    aux: tuple[Tensor, ...] = ()


class Sample(NamedTuple):
    """A labeled image: image (H, W, 3) uint8 RGB, label (H, W) uint8 or uint16 of train ids."""

    image: np.ndarray
    label: np.ndarray
    name: str


class Batch(NamedTuple):
    """Samples of one size.

    ``image`` is (N, H, W, 3) uint8, ``label`` (N, H, W) uint8 or int32; ``indices`` are positions in the data set.
    """

    image: Tensor
    label: Tensor
    names: tuple[str, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """The facts about a data set that a model needs; part of every checkpoint.

    Attributes:
        name: the data set's name.
        classes: class names; position is the train id.
        palette: one RGB triple (0..255) per class.
        mean, std: per-channel RGB statistics on the 0..255 scale, for normalization.
        ignore: the train id that is not counted.
        label_map: raw label value -> train id, where the files hold other values; empty if they are train ids.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    ignore: int = IGNORE
    label_map: dict[int, int] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON-compatible containers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> DatasetInfo:
        """Rebuild from the output of ``to_dict``, also after a round trip through JSON."""
        return cls(
            name=plain["name"],
            classes=tuple(plain["classes"]),
            palette=tuple(tuple(color) for color in plain["palette"]),  # type: ignore[arg-type]
            mean=tuple(plain["mean"]),  # type: ignore[arg-type]
            std=tuple(plain["std"]),  # type: ignore[arg-type]
            ignore=int(plain["ignore"]),
            label_map={int(raw): int(train) for raw, train in plain["label_map"].items()},
        )


class Dataset(Protocol):
    """Indexed samples with their dataset info.

    ``name(index)`` opens no file.
    """

    info: DatasetInfo

    def scan(self) -> object:
        """Find or render the samples; called once before the first access, and by the first ``len``."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name(self, index: int) -> str: ...


class SegmentationLoss(Protocol):
    """A training loss over all heads of a model.

    Its value is divided by the weight of valid pixels, so that splitting a batch does not change the gradient.
    """

    def weight(self, label: Tensor, logits: Logits) -> Tensor:
        """The weight of valid pixels, one value per head."""
        ...

    def terms(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of each head, divided by ``weight`` or by the batch's own."""
        ...

    def total(self, terms: Tensor) -> Tensor:
        """The weighted sum of the heads' losses."""
        ...

    def __call__(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor: ...


MixImages = Callable[["Tensor"], "Tensor"]  # images (N, 3, H, W) -> mixed images of the same shape


class MixBatch(Protocol):
    """Draws how a batch is mixed from its labels (N, H, W) and a seed."""

    def __call__(self, label: Tensor, seed: int) -> tuple[list[tuple[Tensor, float]], MixImages]:
        """The label maps with their weights, and the function that mixes the images alike."""
        ...


class DistillationLoss(Protocol):
    """A teacher's term of the training loss, a mean over images."""

    def attach(self, model: nn.Module) -> None:
        """Hook into the student, again after its layers changed."""
        ...

    def __call__(self, x: Tensor, logits: Logits, forward: Callable[[nn.Module, Tensor], Logits]) -> Tensor: ...


@dataclass(frozen=True)
class Scores:
    """Scores of one data set under one protocol, as fractions.

    ``per_class[name]`` holds ``iou``, ``acc`` and ``pixels``.
    """

    miou: float
    macc: float
    aacc: float
    fwiou: float
    per_class: dict[str, dict[str, float | int | None]]
    classes_present: int
    images: int
    loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON-compatible containers."""
        return asdict(self)
