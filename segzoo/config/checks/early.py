"""Checks of a configuration that import no torch.

They run before the types of its values are known, so a value of another type than expected is left to the later checks.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping

from segzoo.checkpoints.exported_files import find_exported_file
from segzoo.checkpoints.paths import is_pretrained, is_published, resolve_weight_file
from segzoo.checkpoints.schema import CheckpointError
from segzoo.config.checks.comparison import comparison_errors
from segzoo.config.checks.data_paths import conversion_errors
from segzoo.config.checks.output import output_errors
from segzoo.config.checks.packages import is_installed
from segzoo.config.checks.prediction import prediction_errors
from segzoo.config.checks.runtime import export_errors
from segzoo.config.checks.serving import serving_errors
from segzoo.config.commands import COMMANDS
from segzoo.messages import format_override
from segzoo.registry import ConfigError
from segzoo.types import PlainMapping

INPUT_PATHS = ("init.ckpt", "backbone.weights", "distill.ckpt", "resume")
PATHS = (
    *("ckpt", "bundle", "token_file", "out", "source", "images", "data.root", "data.lists", "action.source", "action.image_root"),
    *INPUT_PATHS,
)
NO_PATH = {
    "init.ckpt": ("imagenet",),
    "backbone.weights": ("none", "imagenet", "hub"),
    "distill.ckpt": (),
    "resume": ("none", "auto"),
}
NO_DATA = ("convert",)  # actions of tools/dataset.py that create a data set
ON_RANKS = ("train", "eval", "predict")  # tools that torchrun may start
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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command not in ON_RANKS:
        return [_single_process_error(command, config)]
    unusable = [error for key in PATHS if (error := _path_name_error(key, _text(config, key)))]
    if unusable:
        return unusable
    errors = _length_errors(config) + _device_errors(command, config) + _subject_errors(command, config)
    errors += _logger_errors(config) + _protocol_errors(config) + _input_errors(command, config) + output_errors(command, config)
    return errors


def _text(config: PlainMapping, key: str) -> str | None:
    """Return the text at a dotted key, else None."""
    node: object = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, str) else None


def _checkpoints(config: PlainMapping) -> list[tuple[str, str]]:
    """Key and path of every checkpoint of a configuration."""
    action = config.get("action")
    given = action.get("ckpt") if isinstance(action, Mapping) else None
    paths = [("action.ckpt", path) for path in (given if isinstance(given, list) else [given])]
    return [(key, path) for key, path in (("ckpt", config.get("ckpt")), *paths) if isinstance(path, str)]


def _single_process_error(command: str, config: PlainMapping) -> str:
    """Say what to start instead of torchrun."""
    error = f"tools/{command}.py runs in a single process."
    if command != "prune":
        return f"{error} Start python tools/{command}.py instead of torchrun."
    ckpt, pruner = config.get("ckpt"), _text(config, "pruner.name")
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


def _subject_errors(command: str, config: PlainMapping) -> list[str]:
    """Require a model or a checkpoint, and reject two of them."""
    from segzoo.config.from_weights import subject_errors

    ckpt, model = config.get("ckpt"), config.get("model")
    if own_errors := {"compare": comparison_errors, "serve": serving_errors, "export": export_errors}.get(command):
        return own_errors(config)
    if command in ("eval", "predict") and (errors := subject_errors(config)):
        return errors
    if command == "predict" and ckpt is not None and config.get("data") is not None:
        return [f"data=: the classes are those of ckpt={ckpt}. Omit data=."]
    if command in ("bench", "describe") and ckpt is None and model is None:
        purpose = {"bench": "benchmark: set model=<name> for random weights,", "describe": "describe: set model=<name>"}[command]
        return [f"there is nothing to {purpose} or ckpt=<run directory>"]
    data, optional, has_checkpoint = config.get("data"), "data" in COMMANDS[command].from_checkpoint, bool(_checkpoints(config))
    if not has_checkpoint and optional and isinstance(data, Mapping) and "name" not in data:
        keys = ", ".join(f"data.{key}" for key in data)
        return [f"{keys}: these settings need a data set. Set data=<name>, or ckpt=<run directory> for its data."]
    if command == "dataset" and data is None and not has_checkpoint and _text(config, "action.name") not in NO_DATA:
        return [f"action={_text(config, 'action.name')} needs a data set. Set data=<name>, such as data=folder data.root=<folder>."]
    if command == "dataset" and _text(config, "action.name") == "convert":
        return conversion_errors(config)
    if command != "prune":
        return []
    if _text(config, "pruner.name") == "none":
        return ["pruner=none removes no channel. Set a pruner, such as pruner=l1, or train with tools/train.py."]
    if init := _text(config, "init.ckpt"):
        if ckpt is None:
            return [f"init.ckpt={init}: the model to prune is set by ckpt=. Set {format_override('ckpt', init)}."]
        return [f"init.ckpt={init}: the model to prune is ckpt={ckpt}. Omit init.ckpt."]
    missing = [key for key in ("model", "data") if config.get(key) is None]
    if ckpt is None and missing:
        return [
            f"there is nothing to prune: neither ckpt= nor {' and '.join(f'{key}=' for key in missing)} is given. Set "
            "ckpt=<run directory>, or model=<name> data=<name> for the model that tools/train.py would start from."
        ]
    return []


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


def _input_errors(command: str, config: PlainMapping) -> list[str]:
    """Require that input files exist.

    They are read long after this check.
    """
    errors = []
    here = f"(relative to {os.path.basename(os.getcwd())}/)"
    for key in INPUT_PATHS:
        path = _text(config, key)
        if path is None or path in NO_PATH[key] or (key == "init.ckpt" and is_published(path)) or os.path.exists(path):
            continue
        if key != "resume" and is_pretrained(path):
            continue
        if key == "resume":
            errors.append(f"resume={path}: there is no such run. Set resume=auto, resume=none or the path of a run directory.")
        else:
            errors.append(f"{key}={path}: there is no such file or directory {here}.")
    for key, ckpt in _checkpoints(config):
        if command in ("eval", "predict", "bench", "serve") and find_exported_file(ckpt):
            continue
        try:
            resolve_weight_file(ckpt)
        except CheckpointError as error:
            errors.append(f"{key}={ckpt}: {error}")
    images = _text(config, "images")
    if images is not None and not os.path.exists(images) and not any(glob.iglob(images, recursive=True)):
        errors.append(f"images={images} is not a file or folder and matches no image {here}.")
    if command == "predict":
        errors += prediction_errors(config)
    distill = config.get("distill")
    needs_teacher = isinstance(distill, Mapping) and distill.get("name") == "teacher" and distill.get("ckpt") is None
    if needs_teacher and config.get("ckpt") is None:
        errors.append("distill=teacher needs a teacher. Set distill.ckpt=<run directory or file>.")
    return errors
