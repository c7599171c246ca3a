"""Validate a whole configuration before any data file is opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from segzoo.config.checks.early import early_errors
from segzoo.config.commands import COMMANDS
from segzoo.config.sections import SECTIONS, section_errors
from segzoo.messages import unknown_name_error
from segzoo.registry import ConfigError, setting_errors
from segzoo.types import PlainMapping

if TYPE_CHECKING:
    from segzoo.models._base import SegModel

_validated: dict[str, SegModel | None] = {}  # valid configurations of this process -> model on the meta device


def validate(command: str, config: PlainMapping) -> SegModel | None:
    """Reject an invalid configuration.

    Returns:
        The model of a training on the meta device, None for other commands. A configuration that this process has already
        validated is not checked again, and its model is returned once.

    Raises:
        ConfigError: with all errors, one per line.
    """
    errors, model = _check(command, config)
    if errors:
        raise ConfigError(errors)
    _validated.pop(_key(command, config), None)
    return model


def validation_errors(command: str, config: PlainMapping) -> list[str]:
    """List every error of a configuration.

    Names, types and ranges of all sections and settings are checked first, then combinations that cannot work.
    """
    return _check(command, config)[0]


def _check(command: str, config: PlainMapping) -> tuple[list[str], SegModel | None]:
    key = _key(command, config)
    if key in _validated:
        return [], _validated[key]
    errors, model = early_errors(command, config) + _single_errors(command, config), None
    if not errors and command == "train":
        from segzoo.config.cross_checks import check_training

        errors, model = check_training(config)
    if not errors:
        _validated[key] = model
    return errors, model


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


def _key(command: str, config: PlainMapping) -> str:
    return json.dumps([command, config], sort_keys=True, default=str)
