"""Data types and protocols shared by the packages.

Importing this module imports neither torch nor NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from segzoo.class_names import background_id, class_table_errors
from segzoo.pixel_format import IMAGENET, Normalization, PixelFormat, pixel_errors

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

    def __init__(self, message: str, minimum: int = 0):  # unpickling passes the message and sets the rest
        super().__init__(message)
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
        image: (H, W, C) uint8 or uint16; RGB is (H, W, 3) uint8.
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
        image: (N, H, W, C) uint8 or uint16.
        label: train ids, (N, H, W) uint8 or int32.
        names: names of the samples.
        indices: their positions in the data set.
    """

    image: Tensor
    label: Tensor
    names: tuple[str, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True)
class DatasetInfo:
    """Metadata of a data set that a model needs.

    It is part of every checkpoint.

    Attributes:
        name: name of the data set.
        classes: class names, in the order of their train ids.
        palette: one RGB triple (0..255) per class.
        mean, std: statistics for normalization, one value per channel on the scale of the samples.
        ignore: train id of ignored pixels.
        label_map: label value in the files -> train id; empty if the files contain train ids.
        bits: bits of a sample, 8 or 16.
        show_channels: positions of the channels to show, one for gray or three for RGB. None shows the first three, or else the first.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mean: tuple[float, ...] = IMAGENET.mean
    std: tuple[float, ...] = IMAGENET.std
    ignore: int = IGNORE
    label_map: dict[int, int] = field(default_factory=dict)
    bits: int = 8
    show_channels: tuple[int, ...] | None = None

    def __post_init__(self):
        errors = class_table_errors(self.classes, self.palette)
        errors += pixel_errors(self.pixels, self.mean, self.std, self.show_channels)
        if errors:
            raise ValueError(" ".join(errors))

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def pixels(self) -> PixelFormat:
        """Channels and bits of the images."""
        return PixelFormat(len(self.mean), self.bits)

    @property
    def normalization(self) -> Normalization:
        return Normalization(self.mean, self.std)

    @property
    def background(self) -> int | None:
        """Train id of the background class, if there is one."""
        return background_id(self.classes)

    def to_dict(self) -> PlainDict:
        """Convert to plain JSON-compatible containers.

        Fields newer than the first release appear only where they differ from it.
        """
        newer = {"bits": 8, "show_channels": None}
        return {key: value for key, value in asdict(self).items() if key not in newer or value != newer[key]}

    @classmethod
    def from_dict(cls, plain: PlainDict) -> DatasetInfo:
        """Rebuild from the output of ``to_dict``, before or after JSON."""
        return cls(
            name=plain["name"],
            classes=tuple(plain["classes"]),
            palette=tuple(tuple(color) for color in plain["palette"]),  # type: ignore[arg-type]
            mean=tuple(plain["mean"]),
            std=tuple(plain["std"]),
            ignore=int(plain["ignore"]),
            label_map={int(raw): int(train) for raw, train in plain["label_map"].items()},
            bits=int(plain.get("bits", 8)),
            show_channels=None if plain.get("show_channels") is None else tuple(plain["show_channels"]),
        )


class Images(Protocol):
    """Indexed images (H, W, C) whose labels are not read."""

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

    @property
    def parts(self) -> Sequence[tuple[float, SegmentationLoss]]:
        """The losses of a weighted sum, or this loss by itself."""
        ...

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
