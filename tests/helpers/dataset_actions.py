"""Run an action of tools/dataset.py in this process."""

from __future__ import annotations

from pathlib import Path

from segzoo.cli.compose import resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.sections import section_settings
from segzoo.config.validate import validate
from segzoo.registry import ACTIONS
from segzoo.types import PlainDict
from segzoo.workflows.dataset._report import ActionReport

FOLDER = ("data=folder", "data.images='{split}/{stem}.*'", "data.labels='{split}_masks/{stem}.png'")


def compose_action(*overrides: str) -> PlainDict:
    """Compose and validate a configuration of tools/dataset.py."""
    parsed = parse_overrides("dataset", overrides)
    assert not parsed.errors, parsed.errors
    config = resolve_config(parsed.jobs[0])[0]
    validate("dataset", config)
    return config


def run_action(out: Path, *overrides: str) -> ActionReport:
    """Run an action with the overrides of a command line."""
    config = compose_action(*overrides)
    out.mkdir(parents=True, exist_ok=True)
    return ACTIONS.build(config["action"]["name"], config.get("data") or {}, out, **section_settings(config["action"]))
