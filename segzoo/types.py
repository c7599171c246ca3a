"""The nouns of the house: what rooms hand to each other. Imports neither torch nor NumPy at run time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

IGNORE = 255  # the one train id that counts nowhere: not in a loss, not in a score


class DataError(ValueError):
    """A file of a data set is not what it must be; the message names the file, what came and what to do."""


class ParityError(RuntimeError):
    """An exported file labels images differently; the message says how often and which image shows where."""


class Stage(NamedTuple):
    """One stage of a backbone: its name (``c1`` to ``c5``), output channels and stride before dilation."""

    name: str
    channels: int
    stride: int


class Logits(NamedTuple):
    """What every model answers, in training and evaluation alike.

    ``main`` is (N, K, h, w) at the model's own stride, fp32; ``aux`` holds training-only logits, empty in eval.
    """

    main: Tensor
    aux: tuple[Tensor, ...] = ()


class Sample(NamedTuple):
    """One labeled image: image (H, W, 3) uint8 RGB, label (H, W) uint8 or uint16 of train ids, its name."""

    image: np.ndarray
    label: np.ndarray
    name: str


class Batch(NamedTuple):
    """Samples of one size: image (N, H, W, 3) uint8, label (N, H, W) uint8 or int32, names and data-set indices."""

    image: Tensor
    label: Tensor
    names: tuple[str, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """What a model must know of its data to be used without it; travels in every checkpoint.

    Attributes:
        name: the data set's name.
        classes: class names; position is the train id.
        palette: one RGB triple (0..255) a class.
        mean, std: per-channel RGB statistics on the 0..255 scale, for normalizing.
        ignore: the train id that counts nowhere.
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
        """The info as plain JSON-able containers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> DatasetInfo:
        """The info from what ``to_dict`` wrote, also after a round trip through JSON."""
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
    """A data set: indexed samples and a info. ``name(i)`` answers without opening a file."""

    info: DatasetInfo

    def scan(self) -> object:
        """Finds, or draws, what the set holds; called once before images are asked for, and by the first ``len``."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name(self, index: int) -> str: ...


@dataclass(frozen=True)
class Scores:
    """Scores of one data set under one protocol; fractions, not percent. ``per_class[name]`` = iou, acc, pixels."""

    miou: float
    macc: float
    aacc: float
    fwiou: float
    per_class: dict[str, dict[str, float | int | None]]
    classes_present: int
    images: int
    loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON-able containers."""
        return asdict(self)
