"""Python API to create models by name and load checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segzoo.config.build import build_model
from segzoo.config.from_checkpoint import load
from segzoo.config.presets import ModelPreset, backbone_preset, model_preset, preset_error, preset_names
from segzoo.config.sections import section_errors
from segzoo.messages import unknown_name_error
from segzoo.registry import BACKBONES, MODELS, ConfigError
from segzoo.types import PlainMapping

if TYPE_CHECKING:
    from segzoo.models._base import SegModel

__all__ = ["create_model", "list_backbones", "list_models", "load"]


def list_models() -> list[str]:
    """List the names of all models, variants included."""
    return sorted({*preset_names("model"), *MODELS.names()})


def list_backbones() -> list[str]:
    """List the names of all backbones, variants included."""
    return sorted({*preset_names("backbone"), *BACKBONES.names()})


def create_model(
    name: str,
    backbone: str | PlainMapping | None = None,
    num_classes: int = 21,
    weights: str | None = None,
    **model_settings: Any,
) -> SegModel:
    """Create a model by name, without a configuration file.

    Args:
        name: name of a model as the command line takes it; see ``list_models()``.
        backbone: name of a backbone, or a dictionary with its name and settings, such as ``{"name": "resnet50", "stem": "deep"}``.
            None takes the backbone that the command line takes.
        num_classes: number of classes.
        weights: backbone weights: None, ``imagenet`` or a file.
        **model_settings: settings of the model, checked like those of a YAML file.

    Raises:
        ConfigError: lists all invalid names and settings.
    """
    preset = model_preset(name) if name in preset_names("model") else ModelPreset({"name": name}, "resnet50", {})
    given = {"name": preset.backbone} if backbone is None else {"name": backbone} if isinstance(backbone, str) else dict(backbone)
    if weights is not None:
        given["weights"] = weights
    names = (("model", name, list_models()), ("backbone", given.get("name"), list_backbones()))
    if errors := [unknown_name_error(kind, str(chosen), valid) for kind, chosen, valid in names if chosen not in valid]:
        raise ConfigError(errors)
    if error := preset_error(name, given["name"]):
        raise ConfigError(error)
    base = backbone_preset(given["name"]) if given["name"] in preset_names("backbone") else {"name": given["name"]}
    backbone_section = base | preset.backbone_settings | {key: value for key, value in given.items() if key != "name"}
    model_section = preset.model | model_settings
    if errors := section_errors("model", model_section) + section_errors("backbone", backbone_section):
        raise ConfigError(errors)
    return build_model({"model": model_section, "backbone": backbone_section}, num_classes)
