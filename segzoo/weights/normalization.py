"""The normalization of the images that weights were trained on.

Checkpoints of segzoo store it. For files of other libraries it follows from the names of their tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from segzoo.checkpoints.paths import is_published
from segzoo.checkpoints.serialization import read_metadata
from segzoo.types import IMAGENET, Normalization
from segzoo.weights.conversion import CAFFE_FIRST_CONV, detect_layout
from segzoo.weights.state_dict import published, read_weights

CAFFE = Normalization((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
BACKBONE_PREFIXES = ("layer1.0.", "features.0.", "backbone.layer1.0.")  # of torchvision's and timm's ImageNet backbones
TOLERANCE = 0.01  # relative: the means of ImageNet in Caffe and in torchvision differ by less


def trained_normalization(weights: str) -> Normalization | None:
    """Find the normalization of the images that weights were trained on.

    Args:
        weights: ``imagenet``, the name of weights that torchvision publishes, or a path as
            ``segzoo.checkpoints.paths.resolve_weight_file`` takes it.

    Returns:
        The mean and standard deviation, or None if nothing tells them.

    Raises:
        ConfigError: the file cannot be read, or torchvision has no such entry.
    """
    if weights == "imagenet":
        return IMAGENET
    if is_published(weights):
        preset = published(weights).transforms()
        mean, std = ([round(255 * value, 3) for value in values] for values in (preset.mean, preset.std))
        return Normalization(tuple(mean), tuple(std))  # type: ignore[arg-type]
    if metadata := read_metadata(weights):
        return Normalization.of(metadata["dataset"])
    return _from_names(read_weights(weights).tensors)


def same_normalization(first: Normalization, second: Normalization) -> bool:
    """Return True if two normalizations differ by less than one percent."""
    return all(math.isclose(a, b, rel_tol=TOLERANCE) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def _from_names(names: Iterable[str]) -> Normalization | None:
    """Infer the normalization from the tensor names of another library."""
    names = list(names)
    layout = detect_layout(names)
    if layout == "caffe" or CAFFE_FIRST_CONV in names:
        return CAFFE
    return IMAGENET if layout != "segzoo" or any(name.startswith(BACKBONE_PREFIXES) for name in names) else None
