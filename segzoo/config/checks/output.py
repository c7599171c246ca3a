"""Checks of output directories and runs to resume, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from segzoo.checkpoints.paths import is_pretrained, is_published, split_run_and_step
from segzoo.checkpoints.schema import CheckpointError
from segzoo.checkpoints.store import latest_valid
from segzoo.config.checks.required_model import text_at
from segzoo.registry import ConfigError
from segzoo.runs.environment import is_torchrun_restart
from segzoo.runs.output_dir import check_output_dir
from segzoo.runs.resume_checks import check_resume, names_a_run, resumed_path
from segzoo.runs.run_dir import check_run_dir
from segzoo.types import PlainDict, PlainMapping

WEIGHT_WORDS = {"init.ckpt": ("imagenet",), "backbone.weights": ("none", "imagenet", "hub"), "distill.ckpt": ()}  # no paths


def output_errors(command: str, config: PlainMapping) -> list[str]:
    """Reject an output directory that is taken or cannot be written to."""
    out, resume = config.get("out"), config.get("resume")
    if not isinstance(out, str):
        return []
    try:
        if resume is None:
            is_continued = command == "predict" and config.get("only") == "new"
            check_output_dir(Path(out), command, config.get("overwrite") is True or is_continued)
        elif resume == "none" and not config.get("dry_run") and not is_torchrun_restart():
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


def missing_path(config: PlainMapping, key: str) -> str | None:
    """Path of a weight setting that does not exist, if any."""
    path = text_at(config, key)
    if path is None or path in WEIGHT_WORDS[key] or (key == "init.ckpt" and is_published(path)):
        return None
    return None if os.path.exists(path) or is_pretrained(path) else path


def with_own_weights(config: PlainDict) -> PlainDict:
    """Replace missing weight files by the checkpoint that a run resumes from.

    Its weights are restored in any case. A run that prunes keeps its files: it needs the widths that they give the network.

    Args:
        config: the resolved configuration of a training, not yet checked.

    Returns:
        The configuration to build the training from.
    """
    init, backbone = config.get("init"), config.get("backbone")
    missing = [key for key in ("init.ckpt", "backbone.weights") if missing_path(config, key)]
    if not missing or not isinstance(init, Mapping) or not isinstance(backbone, Mapping):
        return config
    checkpoint = _checkpoint_to_resume(config)
    if checkpoint is None or init.get("name") != "checkpoint" or text_at(config, "pruner.name") != "none":
        return config
    replaced = {"init": {**init, "ckpt": str(checkpoint), "narrow": "none"}}
    if "backbone.weights" in missing:
        replaced["backbone"] = {**backbone, "weights": "none"}
    return config | replaced


def _checkpoint_to_resume(config: PlainMapping) -> Path | None:
    """Checkpoint directory that ``resume`` and ``out`` mean, if there is one."""
    out, resume = text_at(config, "out"), text_at(config, "resume")
    path = out if resume == "auto" else resume if names_a_run(resume) else None
    if path is None:
        return None
    try:
        run, checkpoint = split_run_and_step(resumed_path(Path(path), Path(out) if out else None))
        return checkpoint or latest_valid(run)[0]
    except (CheckpointError, OSError, ValueError):  # later checks name what is wrong with the path
        return None
