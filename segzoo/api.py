"""The Python API: make a model by name, load one from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.config.build import build_model
from segzoo.config.from_checkpoint import load
from segzoo.config.sections import section_errors
from segzoo.registry import BACKBONES, MODELS, ConfigError

if TYPE_CHECKING:
    from segzoo.models._base import SegModel

__all__ = ["create_model", "list_backbones", "list_models", "load"]


def list_models() -> list[str]:
    """The names of all models."""
    return MODELS.names()


def list_backbones() -> list[str]:
    """The names of all backbones."""
    return BACKBONES.names()


def create_model(
    name: str,
    backbone: str | Mapping[str, Any] = "resnet50",
    num_classes: int = 21,
    weights: str | None = None,
    **model_settings: Any,
) -> SegModel:
    """A model by name, outside any configuration file.

    Args:
        name: a registered model; see ``list_models()``.
        backbone: a registered backbone, or a table of its name and settings such as ``{"name": "resnet50", "stem": "deep"}``.
        num_classes: how many classes it tells apart.
        weights: backbone weights: None, ``imagenet`` or a file.
        **model_settings: settings of the model, checked like those of a YAML file.

    Raises:
        ConfigError: with every error of the names and settings.
    """
    trunk = {"name": backbone} if isinstance(backbone, str) else dict(backbone)
    if weights is not None:
        trunk["weights"] = weights
    model = {"name": name, **model_settings}
    if faults := section_errors("model", model) + section_errors("backbone", trunk):
        raise ConfigError(faults)
    return build_model({"model": model, "backbone": trunk}, num_classes)
