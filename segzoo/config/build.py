"""Build single objects from validated configuration sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

from segzoo.config.sections import section_settings
from segzoo.data.splits import SplitOrAll
from segzoo.registry import BACKBONES, DATA, LOSSES, MODELS, POSTS, PROTOCOLS, Range
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.inference.protocol import InferenceProtocol
    from segzoo.models._base import SegModel
    from segzoo.types import Dataset, SegmentationLoss

NumClasses = Annotated[int, Range(1, 65535)]


def build_data(section: PlainMapping, split: str) -> Dataset:
    """Build the data set of a split without opening a file.

    Args:
        section: the ``data`` section.
        split: ``train``, ``val``, ``test`` or ``all``.
    """
    return DATA.build(section["name"], split, **section_settings(section))


def build_split(section: PlainMapping, *, split: SplitOrAll = "val") -> Dataset:
    """Build the data set of the split to score, as ``build_data``."""
    return build_data(section, split)


def build_model(config: PlainMapping, num_classes: int, channels: int = 3) -> SegModel:
    """Build a model from its ``model`` and ``backbone`` sections.

    Backbone weights are loaded if the ``backbone`` section names any, and adapted to the number of channels of the images.
    """
    backbone = BACKBONES.build(config["backbone"]["name"], **section_settings(config["backbone"]))
    model: SegModel = MODELS.build(config["model"]["name"], backbone, num_classes, **section_settings(config["model"]))
    model.set_input_channels_(channels)
    return model


def build_meta_model(config: PlainMapping, channels: int = 3, *, num_classes: NumClasses = 19) -> SegModel:
    """Build a model on the meta device.

    It takes no memory and reads no weights.

    Args:
        config: its ``model`` and ``backbone`` sections.
        channels: number of channels of its images.
        num_classes: number of classes.
    """
    import torch

    from segzoo.layers.modes import SkipInitialization

    without_weights = {**config, "backbone": {**config["backbone"], "weights": "none"}}
    with torch.device("meta"), SkipInitialization():
        return build_model(without_weights, num_classes, channels)


def build_loss(section: PlainMapping, model: SegModel, ignore: int) -> SegmentationLoss:
    """Build the training loss of a model.

    Args:
        section: the ``loss`` section.
        model: provides the loss weights of its auxiliary heads and the loss resolution of its paper.
        ignore: the train id of ignored pixels.
    """
    return LOSSES.build(
        section["name"], model.aux_weights, model.align_corners, ignore, model.loss_resolution, **section_settings(section)
    )


def fill_class_weights(section: PlainMapping, weights: Callable[[], tuple[float, ...] | None]) -> PlainDict:
    """Replace ``class_weights: auto`` in a loss section and its parts.

    Args:
        section: the ``loss`` section.
        weights: computes the weights; called only if they are needed.
    """
    filled = {key: fill_class_weights(value, weights) if isinstance(value, Mapping) else value for key, value in section.items()}
    if filled.get("class_weights") == "auto":
        filled["class_weights"] = weights()
    return filled


def build_protocol(config: PlainMapping) -> InferenceProtocol:
    """Build the inference protocol from its ``protocol`` and ``post`` sections."""
    post = POSTS.build(config["post"]["name"], **section_settings(config["post"]))
    return PROTOCOLS.build(config["protocol"]["name"], post, **section_settings(config["protocol"]))
