"""Jobs of tools, without a process of their own."""

from __future__ import annotations

from segzoo.cli.app import Job, resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.validate import validate


def job(command: str, *overrides: str) -> Job:
    """Compose the job that a command line starts."""
    parsed = parse_overrides(command, overrides)
    assert not parsed.errors, parsed.errors
    config, recorded = resolve_config(parsed.jobs[0])
    validate(command, config)
    choices = {section: "tiny" for section in ("model", "backbone", "data")}
    return Job(command, config, recorded, choices)
