"""Sections of a configuration and the registries that build them."""

from __future__ import annotations

from collections.abc import Mapping

from segzoo.messages import unknown_name_error
from segzoo.registry import (
    ACTIONS,
    AUGMENTS,
    BACKBONES,
    DATA,
    DISTILLS,
    INITS,
    LOGGERS,
    LOSSES,
    MIXES,
    MODELS,
    OPTIMS,
    POSTS,
    PROTOCOLS,
    PRUNERS,
    RUNTIMES,
    SAMPLERS,
    SCHEDULES,
    Registry,
)
from segzoo.types import PlainDict, PlainMapping

SECTIONS: dict[str, Registry] = {
    "model": MODELS,
    "backbone": BACKBONES,
    "data": DATA,
    "sampler": SAMPLERS,
    "augment": AUGMENTS,
    "mix": MIXES,
    "loss": LOSSES,
    "optim": OPTIMS,
    "schedule": SCHEDULES,
    "init": INITS,
    "pruner": PRUNERS,
    "distill": DISTILLS,
    "logger": LOGGERS,
    "protocol": PROTOCOLS,
    "post": POSTS,
    "runtime": RUNTIMES,
    "action": ACTIONS,
}
TRAINING_SECTIONS = tuple(name for name in SECTIONS if name not in ("protocol", "post", "runtime", "action"))
LIST_SECTIONS = ("logger",)  # hold the settings of several parts, each under its name


def section_settings(section: PlainMapping) -> PlainDict:
    """Return the settings of a section, without its name."""
    return {key: value for key, value in section.items() if key != "name"}


def section_errors(section: str, given: object, optional: bool = False) -> list[str]:
    """List the errors of a section by itself.

    Args:
        section: its key in the configuration.
        given: its value, a table with a name and settings.
        optional: whether null is valid.
    """
    registry = SECTIONS[section]
    if section in LIST_SECTIONS and isinstance(given, Mapping):
        return [error for name, settings in given.items() for error in _part_errors(section, str(name), settings)]
    if given is None:
        return [] if optional else [f"{section} is missing. Choose one: {section}={'|'.join(registry.names())}."]
    if isinstance(given, Mapping) and "name" not in given:
        return [
            f"{section} has no name, which says whose settings these are: {', '.join(map(str, given))}. Begin its file with "
            f"defaults: [<name>]. Valid names: {', '.join(registry.names())}."
        ]
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return [f"{section}: expected a table with a name and settings, got {given!r}. Valid names: {', '.join(registry.names())}."]
    return registry.errors(given["name"], section_settings(given), section)


def _part_errors(section: str, name: str, settings: object) -> list[str]:
    """List the errors of one of several parts."""
    if settings is not None and not isinstance(settings, Mapping):
        return [f"{section}.{name}={settings!r}: expected a table of settings. Choose it with {section}={name}."]
    registry = SECTIONS[section]
    if name not in registry.names():
        return [unknown_name_error(section, name, registry.names())]
    return registry.errors(name, settings or {}, f"{section}.{name}")


def training_size(config: PlainMapping) -> list[int] | None:
    """Height and width of all training images, None if they differ."""
    size = config["augment"].get("crop") or [config["data"].get("height"), config["data"].get("width")]
    return None if None in size else list(size)
