"""The model, checkpoint or data set that each tool requires."""

from __future__ import annotations

from collections.abc import Mapping

from segzoo.config.checks.comparison import comparison_errors
from segzoo.config.checks.data_paths import conversion_errors
from segzoo.config.checks.runtime import export_errors
from segzoo.config.checks.serving import serving_errors
from segzoo.config.commands import COMMANDS
from segzoo.messages import format_override
from segzoo.types import PlainMapping


def required_model_errors(command: str, config: PlainMapping) -> list[str]:
    """Require what a tool works on, and reject contradictory choices.

    Args:
        command: the tool's name, such as ``train``.
        config: its configuration. Sections may be null.
    """
    check = CHECKS.get(command)
    return (check(config) if check else []) or _unnamed_data_errors(command, config)


def text_at(config: PlainMapping, key: str) -> str | None:
    """Return the text at a dotted key, else None."""
    node: object = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node if isinstance(node, str) else None


def given_checkpoints(config: PlainMapping) -> list[tuple[str, str]]:
    """Key and path of every checkpoint of a configuration."""
    action = config.get("action")
    given = action.get("ckpt") if isinstance(action, Mapping) else None
    paths = [("action.ckpt", path) for path in (given if isinstance(given, list) else [given])]
    return [(key, path) for key, path in (("ckpt", config.get("ckpt")), *paths) if isinstance(path, str)]


def scoring_errors(config: PlainMapping) -> list[str]:
    """Require one trained network: a checkpoint, or the weights of a model."""
    ckpt, init = config.get("ckpt"), config.get("init")
    weights = init.get("ckpt") if isinstance(init, Mapping) else None
    if ckpt is not None and weights is not None:
        return [f"ckpt={ckpt} and init.ckpt={weights} are both given. Omit one of them."]
    missing = [key for key in ("model", "data") if config.get(key) is None]
    if ckpt is None and weights is None:
        return [
            "there is no model to score. Set ckpt=<run directory>, or for weights of other libraries model=<name> data=<name> "
            "init.ckpt=<file>."
        ]
    if ckpt is None and missing:
        return [f"init.ckpt={weights} needs its model and its classes. Set {' '.join(f'{key}=<name>' for key in missing)}."]
    return []


def _prediction_errors(config: PlainMapping) -> list[str]:
    if errors := scoring_errors(config):
        return errors
    if config.get("ckpt") is not None and config.get("data") is not None:
        return [f"data=: the classes are those of ckpt={config['ckpt']}. Omit data=."]
    return []


def benchmark_errors(config: PlainMapping) -> list[str]:
    """Require a model to time."""
    if config.get("ckpt") is None and config.get("model") is None:
        return ["there is nothing to benchmark: set model=<name> for random weights, or ckpt=<run directory>"]
    return []


def description_errors(config: PlainMapping) -> list[str]:
    """Require a model to describe."""
    if config.get("ckpt") is None and config.get("model") is None:
        return ["there is nothing to describe: set model=<name> or ckpt=<run directory>"]
    return []


def pruning_errors(config: PlainMapping) -> list[str]:
    """Require a pruner, and one model to prune."""
    ckpt = config.get("ckpt")
    if text_at(config, "pruner.name") == "none":
        return ["pruner=none removes no channel. Set a pruner, such as pruner=l1, or train with tools/train.py."]
    if init := text_at(config, "init.ckpt"):
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


def _dataset_errors(config: PlainMapping) -> list[str]:
    action = text_at(config, "action.name")
    if action == "convert":  # which creates a data set
        return conversion_errors(config)
    if config.get("data") is None and not given_checkpoints(config):
        return [f"action={action} needs a data set. Set data=<name>, such as data=folder data.root=<folder>."]
    return []


def _unnamed_data_errors(command: str, config: PlainMapping) -> list[str]:
    """Reject settings of a data set without the data set."""
    data = config.get("data")
    optional = "data" in COMMANDS[command].from_checkpoint
    if not optional or given_checkpoints(config) or not isinstance(data, Mapping) or "name" in data:
        return []
    keys = ", ".join(f"data.{key}" for key in data)
    return [f"{keys}: these settings need a data set. Set data=<name>, or ckpt=<run directory> for its data."]


CHECKS = {
    "bench": benchmark_errors,
    "compare": comparison_errors,
    "dataset": _dataset_errors,
    "describe": description_errors,
    "eval": scoring_errors,
    "export": export_errors,
    "predict": _prediction_errors,
    "prune": pruning_errors,
    "serve": serving_errors,
}
