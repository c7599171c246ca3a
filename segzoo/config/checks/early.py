"""Checks of a configuration that import no torch.

They run before the types of its values are known, so a value of another type than expected is left to the later checks.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.checkpoints.paths import resolve_weight_file
from segzoo.checkpoints.schema import CheckpointError
from segzoo.config.checks.output import WEIGHT_WORDS, missing_path, output_errors
from segzoo.config.checks.prediction import prediction_errors
from segzoo.config.checks.required_model import given_checkpoints, required_model_errors, text_at
from segzoo.data.splitting.patterns import group_pattern_error
from segzoo.messages import relative_to
from segzoo.registry import ConfigError
from segzoo.resources import is_installed
from segzoo.runs.resume_checks import names_a_run, resumed_path
from segzoo.types import PlainMapping

PATHS = (
    *("ckpt", "bundle", "token_file", "out", "source", "images", "data.root", "data.lists", "action.source", "action.image_root"),
    *WEIGHT_WORDS,
    "resume",
)
DISTRIBUTED_TOOLS = ("train", "eval", "predict")  # tools that torchrun may start
PACKAGES = ("mlflow", "wandb")  # loggers that need the package and the extra of their name
UNKNOWN_CROP = (16384, 16384)  # assumed windows of a checkpoint, which any stride fits
MAX_NAME, MAX_PATH = 255, 4096  # bytes that Linux allows


def early_errors(command: str, config: PlainMapping) -> list[str]:
    """List the errors that are visible without torch, one line each.

    Contradictory settings, paths that do not exist, and an output directory that is taken.

    Args:
        command: the tool's name, such as ``train``.
        config: its configuration. Sections may be null.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command not in DISTRIBUTED_TOOLS:
        return [_single_process_error(command, config)]
    unusable = [error for key in PATHS if (error := _path_name_error(key, text_at(config, key)))]
    if unusable:
        return unusable
    errors = _length_errors(config) + _device_errors(command, config) + required_model_errors(command, config)
    errors += _logger_errors(config) + _group_errors(config) + _protocol_errors(config)
    errors += _input_errors(command, config) + output_errors(command, config)
    return errors


def _single_process_error(command: str, config: PlainMapping) -> str:
    """Say what to start instead of torchrun."""
    error = f"tools/{command}.py runs in a single process."
    if command != "prune":
        return f"{error} Start python tools/{command}.py instead of torchrun."
    ckpt, pruner = config.get("ckpt"), text_at(config, "pruner.name")
    start = f"init.ckpt={ckpt} and the model=, backbone= and data= it was trained with," if ckpt else "the same settings,"
    return f"{error} Under torchrun, use tools/train.py with {start} pruner={pruner} pruner.start=0"


def _path_name_error(key: str, path: str | None) -> str | None:
    if path is None:
        return None
    if not path:
        return f"{key} is empty. Set it to a path, or to null for none."
    if "\0" in path:
        return f"{key} contains a null byte, which a path cannot."
    if len(os.fsencode(path)) >= MAX_PATH or any(len(os.fsencode(name)) > MAX_NAME for name in path.split("/")):
        return f"{key}={path[:40]}...: a path has at most {MAX_PATH - 1} bytes and each of its names {MAX_NAME}."
    return None


def _length_errors(config: PlainMapping) -> list[str]:
    if "steps" not in config:
        return []
    steps, epochs = config["steps"], config.get("epochs")
    if steps is not None and epochs is not None:
        return [f"steps={steps} and epochs={epochs} are both given. Keep one and set the other to null: steps=null or epochs=null."]
    if steps is None and epochs is None:
        return ["neither steps nor epochs is given. Set the length of the training: steps=300 or epochs=50."]
    return []


def _device_errors(command: str, config: PlainMapping) -> list[str]:
    device = config.get("device")
    if device is None or not (match := re.fullmatch(r"(?:cuda:|gpu:?)?(\d+)", str(device))):
        return []
    return [
        f"device={device}: expected auto, cpu or cuda. Choose a GPU by an environment variable: "
        f"CUDA_VISIBLE_DEVICES={match[1]} python tools/{command}.py device=cuda ..."
    ]


def _logger_errors(config: PlainMapping) -> list[str]:
    """Require the packages of the chosen loggers."""
    chosen = config.get("logger")
    names = [name for name in PACKAGES if isinstance(chosen, Mapping) and name in chosen]
    return [
        f'logger={name} needs a package that is not installed: pip install "segzoo[{name}]".'
        for name in names
        if not is_installed(name)
    ]


def _group_errors(config: PlainMapping) -> list[str]:
    """Reject a pattern that cannot name groups of images."""
    pattern = text_at(config, "group_by")
    error = None if pattern is None else group_pattern_error("group_by", pattern)
    return [error] if error else []


def _protocol_errors(config: PlainMapping) -> list[str]:
    """List contradictions within the protocol.

    Names and types are checked with those of the other sections. A checkpoint may bring the size of windows.
    """
    from segzoo.config.sections import section_errors, section_settings
    from segzoo.registry import PROTOCOLS

    section = config.get("protocol")
    if section is None or section_errors("protocol", section):
        return []
    settings = section_settings(section)
    if settings.get("crop", ()) is None and config.get("ckpt") is not None:
        settings["crop"] = UNKNOWN_CROP
    try:
        PROTOCOLS.build(section["name"], **settings)
    except ConfigError as error:
        return error.errors
    return []


def _hint_to_resume(config: PlainMapping, key: str) -> str:
    """Say how a run continues after its weight file is gone."""
    if key == "distill.ckpt" or config.get("resume") in (None, "none"):
        return ""
    if text_at(config, "pruner.name") != "none":
        return " A run that prunes needs it to resume: put it back, or link it there."
    return " To continue a run that has begun with it, set resume=<run directory>." if config["resume"] == "auto" else ""


def _input_errors(command: str, config: PlainMapping) -> list[str]:
    """Require that input files exist.

    They are read long after this check.
    """
    errors = []
    for key in WEIGHT_WORDS:
        if path := missing_path(config, key):
            errors.append(f"{key}={path}: there is no such file or directory{relative_to(path)}.{_hint_to_resume(config, key)}")
    resume, out = text_at(config, "resume"), text_at(config, "out")
    if resume is not None and names_a_run(resume) and not resumed_path(Path(resume), Path(out) if out else None).exists():
        errors.append(f"resume={resume}: there is no such run. Set resume=auto, resume=none or the path of a run directory.")
    for key, ckpt in given_checkpoints(config):
        if command in ("eval", "predict", "bench", "serve") and find_exported_file(ckpt):
            continue
        try:
            resolve_weight_file(ckpt)
        except CheckpointError as error:
            errors.append(f"{key}={ckpt}: {error}")
    images = text_at(config, "images")
    if images is not None and not os.path.exists(images) and not any(glob.iglob(images, recursive=True)):
        errors.append(f"images={images} is not a file or folder and matches no image{relative_to(images)}.")
    if command == "predict":
        errors += prediction_errors(config)
    distill = config.get("distill")
    needs_teacher = isinstance(distill, Mapping) and distill.get("name") == "teacher" and distill.get("ckpt") is None
    if needs_teacher and config.get("ckpt") is None:
        errors.append("distill=teacher needs a teacher. Set distill.ckpt=<run directory or file>.")
    return errors
