"""The sections of a configuration and their registries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.registry import (
    AUGMENTS,
    BACKBONES,
    DATA,
    DISTILLS,
    INITS,
    LOSSES,
    MIXES,
    MODELS,
    OPTIMS,
    POSTS,
    PRUNERS,
    RUNTIMES,
    SCHEDULES,
    Registry,
)

if TYPE_CHECKING:
    pass


SECTIONS: dict[str, Registry] = {
    "model": MODELS,
    "backbone": BACKBONES,
    "data": DATA,
    "augment": AUGMENTS,
    "mix": MIXES,
    "loss": LOSSES,
    "optim": OPTIMS,
    "schedule": SCHEDULES,
    "init": INITS,
    "pruner": PRUNERS,
    "distill": DISTILLS,
    "post": POSTS,
    "runtime": RUNTIMES,
}


TRAINING_SECTIONS = tuple(name for name in SECTIONS if name not in ("post", "runtime"))


def section_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without its name: what its builder takes."""
    return {key: value for key, value in section.items() if key != "name"}


def section_errors(section: str, given: Any, optional: bool = False) -> list[str]:
    """What is wrong with one section by itself."""
    registry = SECTIONS[section]
    if given is None:
        return [] if optional else [f"{section} is missing. Choose one: {section}={'|'.join(registry.names())}."]
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return [f"{section}: wanted a table with a name and settings, got {given!r}. Valid names: {', '.join(registry.names())}."]
    return registry.errors(given["name"], section_settings(given), section)
