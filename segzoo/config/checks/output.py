"""Checks of output directories and runs to resume, without torch."""

from __future__ import annotations

import os
from pathlib import Path

from segzoo.registry import ConfigError
from segzoo.runs.output_dir import check_output_dir
from segzoo.runs.resume_checks import check_resume
from segzoo.runs.run_dir import check_run_dir
from segzoo.types import PlainMapping


def output_errors(command: str, config: PlainMapping) -> list[str]:
    """Reject an output directory that is taken or cannot be written to."""
    out, resume = config.get("out"), config.get("resume")
    if not isinstance(out, str):
        return []
    try:
        if resume is None:
            is_continued = command == "predict" and config.get("only") == "new"
            check_output_dir(Path(out), command, config.get("overwrite") is True or is_continued)
        elif resume == "none" and not config.get("dry_run") and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            check_run_dir(Path(out))
    except ConfigError as error:
        return error.errors
    return []


def resume_errors(recorded: PlainMapping) -> list[str]:
    """List the errors of ``resume`` and ``out``, as ``open_run`` raises them.

    None is listed if a checkpoint fills in the model and data: without reading it, the configuration is incomplete.

    Args:
        recorded: the configuration as run directories record it.
    """
    out, resume = recorded.get("out"), recorded.get("resume")
    if not isinstance(resume, str) or recorded.get("dry_run") or recorded.get("ckpt") is not None:
        return []
    try:
        check_resume(dict(recorded), out=out, resume=resume)
    except ConfigError as error:
        return error.errors
    return []
