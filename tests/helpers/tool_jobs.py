"""Jobs of tools, without a process of their own."""

from __future__ import annotations

from segzoo.cli.app import Job, reject_invalid, resolve_config
from segzoo.cli.overrides import parse_overrides


def job(command: str, *overrides: str) -> Job:
    """Compose the job that a command line starts, after the checks that the tool makes."""
    parsed = parse_overrides(command, overrides)
    reject_invalid(parsed, command)
    config, recorded = resolve_config(parsed.jobs[0])
    choices = {section: "tiny" for section in ("model", "backbone", "data")}
    return Job(command, config, recorded, choices)
