"""The zoo from Python: make a model by name, load one from its checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from segzoo.config.build import build_data, build_model
from segzoo.config.sections import section_errors, section_settings
from segzoo.registry import LOSSES, ConfigError, Range

if TYPE_CHECKING:
    from segzoo.models._base import SegModel
    from segzoo.types import DatasetInfo
from segzoo.config.build import build_meta_model


def meta_models(
    config: Mapping[str, Any], *, ckpt: str | None = None, num_classes: Annotated[int, Range(1, None)] | None = None
) -> tuple[SegModel, SegModel | None]:
    """A network on the meta device, and the same before it was pruned, if it was.

    Args:
        config: its ``model`` and ``backbone`` sections; null ones come from the checkpoint.
        ckpt: a run directory, a checkpoint directory or a ``.safetensors`` file.
        classes: how many classes a network without a checkpoint tells apart, 19 if null; a checkpoint has its own.

    Raises:
        ConfigError: neither a model nor a checkpoint is given, or they contradict each other.
    """
    if ckpt is None:
        if config.get("model") is None:
            raise ConfigError("there is nothing to describe: say model=<name>, or ckpt=<run directory>")
        return build_meta_model(config, num_classes=num_classes or 19), None
    model, info, meta = load_checkpoint(ckpt=ckpt)
    check_same_model(meta, config)
    if num_classes not in (None, info.num_classes):
        raise ConfigError(
            f"num_classes={num_classes} contradicts the checkpoint, which has {info.num_classes}. Leave num_classes= away."
        )
    return model.to("meta"), build_meta_model(meta["config"], num_classes=info.num_classes) if meta["widths"] else None


def load(ckpt: str | Path) -> SegModel:
    """The model of a checkpoint, in evaluation mode, with its dataset info; runs nothing that the file names.

    Args:
        ckpt: a run directory (its best checkpoint), a checkpoint directory or a ``.safetensors`` file.

    Raises:
        ConfigError: if the file is no checkpoint of segzoo's, or its tensors do not fit its own configuration.
    """
    return load_checkpoint(ckpt=str(ckpt))[0]


def load_checkpoint(*, ckpt: str) -> tuple[SegModel, DatasetInfo, dict[str, Any]]:
    """Like ``load``, with the dataset info and the checkpoint's metadata: ``config, info, step, sha256, path``."""
    from segzoo.checkpoints.serialization import read_model
    from segzoo.checkpoints.store import CheckpointError
    from segzoo.layers.channel_widths import set_channel_widths_
    from segzoo.types import DatasetInfo

    try:
        state, meta = read_model(ckpt)
    except CheckpointError as error:
        raise ConfigError(f"ckpt={ckpt}: {error}") from None
    config = meta["config"]
    trunk = {**config["backbone"], "weights": "none"}
    if faults := section_errors("model", config["model"]) + section_errors("backbone", trunk):
        raise ConfigError([f"ckpt={ckpt}: its own configuration does not fit this version: {fault}" for fault in faults])
    info = DatasetInfo.from_dict(meta["dataset"])
    model = build_model({"model": config["model"], "backbone": trunk}, info.num_classes)
    try:
        set_channel_widths_(model, state) if meta["widths"] else model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"ckpt={ckpt}: tensors do not fit its own configuration: {error}") from None
    model.info = info
    return model.eval(), info, meta


def initial_model(config: Mapping[str, Any], *, ckpt: str | None = None) -> tuple[SegModel | None, dict[str, Any]]:
    """What a run begins with that takes its network from a checkpoint or, like a training, from the configuration.

    Args:
        config: its ``model``, ``backbone`` and ``data`` sections; null ones come from the checkpoint.
        ckpt: a run directory, a checkpoint directory or a ``.safetensors`` file; null leaves the network to ``build_training``.

    Returns:
        The network of the checkpoint, or None; and what a checkpoint's metadata would say of it: ``config``, ``info``, ``widths`` and
        ``sha256``, which is None without a checkpoint.

    Raises:
        ConfigError: neither a checkpoint nor a model with its data is given, or they contradict each other.
    """
    if ckpt is not None:
        model, _, meta = load_checkpoint(ckpt=ckpt)
        check_same_model(meta, config)
        return model, meta
    if missing := [word for word in ("model", "data") if config.get(word) is None]:
        raise ConfigError(
            f"there is nothing to begin with: neither ckpt= nor {' and '.join(f'{word}=' for word in missing)} is given. Say "
            "ckpt=<run directory>, or model=<name> data=<name> for the network that tools/train.py would begin with."
        )
    info = build_data(config["data"], "train").info
    own = {name: config[name] for name in ("model", "backbone", "data")}
    return None, {"config": own, "dataset": info.to_dict(), "widths": {}, "sha256": None}


def checkpoint_title(meta: Mapping[str, Any]) -> str:
    """``<model>-<backbone>-<data>`` of a checkpoint."""
    return "-".join((meta["config"]["model"]["name"], meta["config"]["backbone"]["name"], meta["dataset"]["name"]))


def checkpoint_loss(meta: Mapping[str, Any], model: SegModel) -> Any:
    """The loss a checkpoint was trained with, so that a validation loss compares with the training's."""
    section = meta["config"]["loss"]
    return LOSSES.build(
        section["name"],
        model.aux_weights,
        model.align_corners,
        meta["dataset"]["ignore"],
        model.loss_resolution,
        **section_settings(section),
    )


def check_same_model(meta: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Rejects ``model`` or ``backbone`` words that contradict the checkpoint; null words and equal ones pass.

    Raises:
        ConfigError: naming every setting that differs.
    """
    own, faults = meta["config"], []
    for section in ("model", "backbone"):
        for key, value in (given.get(section) or {}).items():
            if key != "weights" and key in own[section] and value != own[section][key]:
                faults.append(
                    f"{section}.{key}={value} contradicts the checkpoint, which has {own[section][key]}. Leave {section}= away."
                )
    if faults:
        raise ConfigError(faults)


def dataset_config(meta: Mapping[str, Any], given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data section to evaluate on: the one given, or the checkpoint's own with its environment words resolved.

    Raises:
        ConfigError: the given data has other classes than the checkpoint was trained on.
    """
    if given is None:
        return {key: _resolve(value) for key, value in meta["config"]["data"].items()}
    own, info = tuple(meta["dataset"]["classes"]), build_data(given, "val").info
    if info.classes != own:
        raise ConfigError(
            f"data={info.name} has the classes {', '.join(info.classes)}; the checkpoint was trained on {', '.join(own)}. "
            "Leave data= away to evaluate on the checkpoint's own data, or train on this one."
        )
    return dict(given)


def check_same_normalization(meta: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Rejects data that is normalized otherwise than a checkpoint's: its network would be fed other numbers than it learned from.

    Raises:
        ConfigError: with both means and deviations, and the words that make them equal.
    """
    own, info = meta["dataset"], build_data(data, "train").info
    theirs = {"mean": list(info.mean), "std": list(info.std)}
    known = {word: list(own[word]) for word in theirs}
    if known != theirs:
        words = " ".join(f"data.{word}={json.dumps(values, separators=(',', ':'))}" for word, values in known.items())
        tip = f"Say {words}" if "mean" in data else "Leave data= away"
        raise ConfigError(
            f"data={info.name} is normalized by mean {theirs['mean']} and std {theirs['std']}, the checkpoint's network by mean "
            f"{known['mean']} and std {known['std']}. {tip}."
        )


def _resolve(value: Any) -> Any:
    """``${oc.env:NAME,default}`` at the start of a path, the one interpolation a checkpoint may hold; others stay text."""
    if not isinstance(value, str) or not value.startswith("${oc.env:"):
        return value
    word, _, rest = value.removeprefix("${oc.env:").partition("}")
    name, _, default = word.partition(",")
    return os.environ.get(name, default) + rest
