"""Python API to create models by name and load checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segzoo.config.build import build_model
from segzoo.config.from_checkpoint import load
from segzoo.config.sections import section_errors
from segzoo.registry import BACKBONES, MODELS, ConfigError
from segzoo.types import PlainMapping

if TYPE_CHECKING:
    from segzoo.models._base import SegModel

__all__ = ["create_model", "list_backbones", "list_models", "load"]


def list_models() -> list[str]:
    """List the names of all models."""
    return MODELS.names()


def list_backbones() -> list[str]:
    """List the names of all backbones."""
    return BACKBONES.names()


def create_model(
    name: str,
    backbone: str | PlainMapping = "resnet50",
    num_classes: int = 21,
    weights: str | None = None,
    **model_settings: Any,
) -> SegModel:
    """Create a model by name, without a configuration file.

    Args:
        name: name of a model; see ``list_models()``.
        backbone: name of a backbone, or a dictionary with its name and settings, such as ``{"name": "resnet50", "stem": "deep"}``.
        num_classes: number of classes.
        weights: backbone weights: None, ``imagenet`` or a file.
        **model_settings: settings of the model, checked like those of a YAML file.

    Raises:
        ConfigError: lists all invalid names and settings.
    """
    backbone_section = {"name": backbone} if isinstance(backbone, str) else dict(backbone)
    if weights is not None:
        backbone_section["weights"] = weights
    model_section = {"name": name, **model_settings}
    if errors := section_errors("model", model_section) + section_errors("backbone", backbone_section):
        raise ConfigError(errors)
    return build_model({"model": model_section, "backbone": backbone_section}, num_classes)
