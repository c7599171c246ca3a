"""Data types and protocols shared by the packages.

Importing this module imports neither torch nor NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from segzoo.class_names import background_id, class_name_errors

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

PlainDict = dict[str, Any]  # what YAML and JSON hold: dicts, lists, strings, numbers, booleans, None
PlainMapping = Mapping[str, Any]  # the same, read only
DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]

IGNORE = 255  # train id of pixels that losses and scores leave out


class DataError(ValueError):
    """An invalid file of a data set, named with a suggestion."""


class InvalidDataset(DataError):
    """Errors found by a complete check of a data set.

    Tools end with exit code 2, so that scripts can tell it from an invalid command.
    """


class TrainingError(RuntimeError):
    """A training that cannot go on.

    The message names the step or the settings and suggests what to do.
    """


class InputTooSmall(ValueError):
    """An image below a model's ``minimum`` height and width in pixels."""

    def __init__(self, received: str, minimum: int):
        super().__init__(f"{received}, expected at least {minimum} x {minimum} pixels: enlarge or pad the images")
        self.minimum = minimum


class ParityError(RuntimeError):
    """An exported model whose labels differ from the original's."""


class Stage(NamedTuple):
    """A backbone stage.

    Attributes:
        name: ``c1`` to ``c5``.
        channels: output channels.
        stride: stride of its output before dilation.
    """

    name: str
    channels: int
    stride: int


class Logits(NamedTuple):
    """Output of every model, in training and in evaluation.

    Attributes:
        main: logits (N, K, h, w) at the model's own stride, fp32.
        aux: logits of the training-only heads, empty in evaluation.
    """

    main: Tensor
    aux: tuple[Tensor, ...] = ()


class Sample(NamedTuple):
    """A labeled image.

    Attributes:
        image: RGB, (H, W, 3) uint8.
        label: train ids, (H, W) uint8 or uint16.
        name: identifies the image in messages.
        focus: pixel (row, column) that a crop should contain, or None.
        reduction: r, if the image was decoded at 1/r of its size: (ceil(H / r), ceil(W / r), 3).
    """

    image: np.ndarray
    label: np.ndarray
    name: str
    focus: tuple[int, int] | None = None
    reduction: int = 1


class Batch(NamedTuple):
    """Samples of one size.

    Attributes:
        image: RGB, (N, H, W, 3) uint8.
        label: train ids, (N, H, W) uint8 or int32.
        names: names of the samples.
        indices: their positions in the data set.
    """

    image: Tensor
    label: Tensor
    names: tuple[str, ...]
    indices: tuple[int, ...]


class Normalization(NamedTuple):
    """Normalization of images: subtraction of the mean, division by the std.

    Attributes:
        mean, std: one value per RGB channel, on the 0..255 scale.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, plain: PlainMapping) -> Normalization:
        """Take ``mean`` and ``std`` from dataset info in plain containers."""
        return cls(tuple(plain["mean"]), tuple(plain["std"]))  # type: ignore[arg-type]


IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # of torchvision, timm and mmsegmentation


@dataclass(frozen=True)
class DatasetInfo:
    """Metadata of a data set that a model needs.

    It is part of every checkpoint.

    Attributes:
        name: name of the data set.
        classes: class names, in the order of their train ids.
        palette: one RGB triple (0..255) per class.
        mean, std: per-channel RGB statistics on the 0..255 scale, for normalization.
        ignore: train id of ignored pixels.
        label_map: label value in the files -> train id; empty if the files contain train ids.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mean: tuple[float, float, float] = IMAGENET.mean
    std: tuple[float, float, float] = IMAGENET.std
    ignore: int = IGNORE
    label_map: dict[int, int] = field(default_factory=dict)

    def __post_init__(self):
        if errors := class_name_errors(self.classes):
            raise ValueError(" ".join(errors))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def normalization(self) -> Normalization:
        return Normalization(self.mean, self.std)

    @property
    def background(self) -> int | None:
        """Train id of the background class, if there is one."""
        return background_id(self.classes)

    def to_dict(self) -> PlainDict:
        """Convert to plain JSON-compatible containers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: PlainDict) -> DatasetInfo:
        """Rebuild from the output of ``to_dict``, before or after JSON."""
        return cls(
            name=plain["name"],
            classes=tuple(plain["classes"]),
            palette=tuple(tuple(color) for color in plain["palette"]),  # type: ignore[arg-type]
            mean=tuple(plain["mean"]),  # type: ignore[arg-type]
            std=tuple(plain["std"]),  # type: ignore[arg-type]
            ignore=int(plain["ignore"]),
            label_map={int(raw): int(train) for raw, train in plain["label_map"].items()},
        )


class Images(Protocol):
    """Indexed images, (H, W, 3) uint8 RGB, whose labels are not read."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> np.ndarray: ...


class Dataset(Images, Protocol):
    """Indexed samples of a data set.

    ``name(index)`` opens no file, and ``image(index)`` no label.
    """

    info: DatasetInfo

    def scan(self) -> object:
        """Find or render the samples.

        Called once before the first access, and by the first ``len``.
        """
        ...

    def __getitem__(self, index: int) -> Sample: ...

    def name(self, index: int) -> str: ...


class SegmentationLoss(Protocol):
    """Training loss over all heads of a model.

    The loss is divided by the weight of the labels, so splitting a batch does not change the gradient. ``weight`` is a vector whose first
    value belongs to the main head, and a sum over images.
    """

    def weight(self, label: Tensor, logits: Logits) -> Tensor:
        """Compute the weight of the labels, at least one value per head."""
        ...

    def terms(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss of each head.

        It is divided by ``weight``, or by the weight of this batch if that is None.
        """
        ...

    def total(self, terms: Tensor) -> Tensor:
        """Compute the weighted sum of the losses of all heads."""
        ...

    def __call__(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor: ...


class DistillationLoss(Protocol):
    """Distillation term of the training loss, a mean over images."""

    def attach(self, student: nn.Module) -> None:
        """Register hooks on the student.

        Called again after its layers change.
        """
        ...

    def __call__(self, x: Tensor, logits: Logits, forward: Callable[[nn.Module, Tensor], Logits]) -> Tensor: ...
