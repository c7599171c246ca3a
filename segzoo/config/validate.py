"""Validate a whole configuration before any data file is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.registry import (
    ConfigError,
    setting_errors,
    unknown_name_error,
)

if TYPE_CHECKING:
    pass
from segzoo.config.commands import COMMANDS
from segzoo.config.sections import SECTIONS, section_errors


def validate(frame: str, config: Mapping[str, Any]) -> None:
    """Rejects a configuration that cannot work, before any data file is opened.

    Raises:
        ConfigError: with every error found, one line each.
    """
    if faults := validation_errors(frame, config):
        raise ConfigError(faults)


def validation_errors(frame: str, config: Mapping[str, Any]) -> list[str]:
    """Every error of a configuration: names, types and ranges of all sections and words, then pairs that cannot work."""
    known = COMMANDS[frame]
    faults = []
    for section in known.sections:
        faults += section_errors(section, config.get(section), optional=section in known.from_checkpoint)
    words = {key: value for key, value in config.items() if key not in known.sections}
    misplaced = [key for key in words if key in SECTIONS]
    faults += [unknown_name_error("section", key, known.sections) for key in misplaced]
    given = {key: value for key, value in words.items() if key not in misplaced}
    faults += setting_errors(known.settings(), given, "", f"tools/{frame}.py")
    if not faults and frame == "train":
        from segzoo.config.cross_checks import training_errors

        faults = training_errors(config)
    return faults
