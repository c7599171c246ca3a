"""Validate a whole configuration before any data file is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping

from segzoo.config.checks.early import early_errors
from segzoo.config.commands import COMMANDS
from segzoo.config.sections import SECTIONS, section_errors
from segzoo.messages import unknown_name_error
from segzoo.registry import ConfigError, setting_errors
from segzoo.types import PlainMapping

_validated: set[str] = set()  # valid configurations of this process


def validate(command: str, config: PlainMapping) -> None:
    """Reject an invalid configuration.

    A configuration that this process has already validated is not checked again.

    Raises:
        ConfigError: with all errors, one per line.
    """
    if errors := validation_errors(command, config):
        raise ConfigError(errors)


def validation_errors(command: str, config: PlainMapping) -> list[str]:
    """List every error of a configuration.

    Names, types and ranges of all sections and settings are checked first, then combinations that cannot work.
    """
    key = json.dumps([command, config], sort_keys=True, default=str)
    if key in _validated:
        return []
    errors = early_errors(command, config) + _single_errors(command, config)
    if not errors and command == "train":
        from segzoo.config.cross_checks import training_errors

        errors = training_errors(config)
    if not errors:
        _validated.add(key)
    return errors


def _single_errors(command: str, config: PlainMapping) -> list[str]:
    """List the errors of each section and setting by itself."""
    known = COMMANDS[command]
    errors = []
    for section in known.sections:
        given, optional = config.get(section), section in known.from_checkpoint
        if section == "data" and optional and isinstance(given, Mapping) and "name" not in given:
            continue  # changes the section of the checkpoint and is checked together with it
        errors += section_errors(section, given, optional)
    plain = {key: value for key, value in config.items() if key not in known.sections}
    misplaced = [key for key in plain if key in SECTIONS]
    errors += [unknown_name_error("section", key, known.sections) for key in misplaced]
    settings = {key: value for key, value in plain.items() if key not in misplaced}
    return errors + setting_errors(known.settings(), settings, "", f"tools/{command}.py")
