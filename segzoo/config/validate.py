"""Validate a whole configuration before any data file is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.registry import (
    ConfigError,
    setting_faults,
    unknown,
)

if TYPE_CHECKING:
    pass
from segzoo.config.commands import FRAMES
from segzoo.config.sections import SECTIONS, section_faults


def check(frame: str, config: Mapping[str, Any]) -> None:
    """Refuses a configuration that cannot work, before any data file is opened.

    Raises:
        ConfigError: with every fault found, one line each.
    """
    if faults := faults_of(frame, config):
        raise ConfigError(faults)


def faults_of(frame: str, config: Mapping[str, Any]) -> list[str]:
    """Every fault of a configuration: names, types and ranges of all sections and words, then pairs that cannot work."""
    known = FRAMES[frame]
    faults = []
    for section in known.sections:
        faults += section_faults(section, config.get(section), optional=section in known.from_checkpoint)
    words = {key: value for key, value in config.items() if key not in known.sections}
    misplaced = [key for key in words if key in SECTIONS]
    faults += [unknown("section", key, known.sections) for key in misplaced]
    given = {key: value for key, value in words.items() if key not in misplaced}
    faults += setting_faults(known.words(), given, "", f"tools/{frame}.py")
    if not faults and frame == "train":
        from segzoo.config.cross_checks import training_faults

        faults = training_faults(config)
    return faults
