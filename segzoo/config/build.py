"""Build single objects from checked configuration sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.registry import (
    BACKBONES,
    DATA,
    MODELS,
    POSTS,
)

if TYPE_CHECKING:
    from segzoo.models._base import SegModel
    from segzoo.types import Dataset
from typing import TYPE_CHECKING, Annotated

from segzoo.config.sections import section_settings
from segzoo.registry import Range

if TYPE_CHECKING:
    from segzoo.models._base import SegModel


def build_data(section: Mapping[str, Any], split: str) -> Dataset:
    """The data set of a section for ``split`` (``train`` or ``val``); opens no file."""
    return DATA.build(section["name"], split, **section_settings(section))


def build_model(config: Mapping[str, Any], num_classes: int) -> SegModel:
    """The model of a configuration's ``model`` and ``backbone`` sections, with the backbone weights they ask for."""
    backbone = BACKBONES.build(config["backbone"]["name"], **section_settings(config["backbone"]))
    return MODELS.build(config["model"]["name"], backbone, num_classes, **section_settings(config["model"]))


def build_post(section: Mapping[str, Any]) -> Any:
    """What makes labels of class probabilities, or None for their arg-max."""
    return POSTS.build(section["name"], **section_settings(section))


def build_meta_model(config: Mapping[str, Any], *, num_classes: Annotated[int, Range(1, None)] = 19) -> SegModel:
    """The model of a configuration on the meta device, which has shapes and no memory.

    Args:
        config: its ``model`` and ``backbone`` sections; backbone weights are not read.
        classes: how many classes it tells apart.
    """
    import torch

    bare = {**config, "backbone": {**config["backbone"], "weights": "none"}}
    with torch.device("meta"):
        return build_model(bare, num_classes)
