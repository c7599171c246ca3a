"""Models and backbones as ``conf/`` names them, variants included.

Reads the YAML files as the command line composes them, but without Hydra.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

import yaml

from segzoo.messages import unknown_name_error
from segzoo.registry import ConfigError
from segzoo.types import PlainDict


class ModelPreset(NamedTuple):
    """A file of ``conf/model/``.

    Attributes:
        model: the ``model`` section.
        backbone: name of the backbone that the command line selects with it.
        backbone_settings: settings that it changes on any backbone.
    """

    model: PlainDict
    backbone: str
    backbone_settings: PlainDict


def preset_names(group: str) -> list[str]:
    """Sorted names of the files of a group, ``model`` or ``backbone``."""
    return sorted(
        path.name.removesuffix(".yaml") for path in (files("segzoo.conf") / group).iterdir() if path.name.endswith(".yaml")
    )


def backbone_preset(name: str) -> PlainDict:
    """Read the ``backbone`` section of a name.

    Raises:
        ConfigError: there is no such backbone.
    """
    content = _read("backbone", name)[1]
    section: PlainDict = {}
    for base in content.pop("defaults", []):
        section |= {} if base == "_self_" else backbone_preset(base)
    return section | content


def model_preset(name: str) -> ModelPreset:
    """Read a model by its name.

    Raises:
        ConfigError: there is no such model.
    """
    is_global, content = _read("model", name)
    model, backbone, backbone_settings = {}, "", {}
    for base in content.pop("defaults", []):
        if isinstance(base, dict):  # {/backbone@_global_.backbone: resnet50}
            (backbone,) = base.values()
        elif base != "_self_":
            preset = model_preset(base.partition("@")[0])
            model, backbone, backbone_settings = dict(preset.model), preset.backbone, dict(preset.backbone_settings)
    own = content if is_global else {"model": content}
    return ModelPreset(model | own.get("model", {}), backbone, backbone_settings | own.get("backbone", {}))


def preset_error(model: str, backbone: str) -> str | None:
    """Describe why a model does not run on a backbone, else None.

    Args:
        model, backbone: names as the command line takes them. Names of a user's own files are not checked.
    """
    if model not in preset_names("model") or backbone not in preset_names("backbone"):
        return None
    known = backbone_preset(backbone)
    missing = {key: value for key, value in model_preset(model).backbone_settings.items() if key not in known}
    if not missing:
        return None
    able = [name for name in preset_names("backbone") if missing.keys() <= backbone_preset(name).keys()]
    settings = ", ".join(f"backbone.{key}={value}" for key, value in missing.items())
    plain = [name for name in preset_names("model") if name != model and model_preset(name).model == model_preset(model).model]
    other = f", or another model, such as model={plain[0]}" if plain else ""
    return f"model={model} sets {settings}, which backbone={backbone} does not have. Set backbone={'|'.join(able)}{other}."


def _read(group: str, name: str) -> tuple[bool, PlainDict]:
    """Read a file.

    Returns:
        Whether its content is that of a whole configuration, and the content.
    """
    if name not in preset_names(group):
        raise ConfigError(unknown_name_error(group, name, preset_names(group)))
    text = (files("segzoo.conf") / group / f"{name}.yaml").read_text(encoding="utf-8")
    return text.startswith("# @package _global_"), yaml.safe_load(text)
