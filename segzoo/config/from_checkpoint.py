"""Build models and configurations from checkpoints."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.config.build import NumClasses, build_data, build_loss, build_meta_model, build_model
from segzoo.config.checks.required_model import description_errors, pruning_errors
from segzoo.config.sections import section_errors
from segzoo.pixel_format import PixelFormat
from segzoo.registry import ConfigError
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    from segzoo.models._base import SegModel
    from segzoo.types import DatasetInfo, SegmentationLoss


def meta_models(
    config: PlainMapping, *, ckpt: str | None = None, num_classes: NumClasses | None = None
) -> tuple[SegModel, SegModel | None]:
    """Build a model and, if it was pruned, the unpruned one.

    Both are on the meta device.

    Args:
        config: its ``model`` and ``backbone`` sections. Null ones come from the checkpoint.
        ckpt: a path that ``segzoo.checkpoints.paths.resolve_weight_file`` accepts.
        num_classes: number of classes of a model without a checkpoint; None means 19. A checkpoint has its own.

    Raises:
        ConfigError: neither a model nor a checkpoint is given, or they contradict each other.
    """
    if ckpt is None:
        if errors := description_errors(config):
            raise ConfigError(errors)
        return build_meta_model(config, num_classes=num_classes or 19), None
    model, info, meta = load_checkpoint(ckpt=ckpt)
    check_same_model(meta, config)
    if num_classes not in (None, info.num_classes):
        raise ConfigError(f"num_classes={num_classes} contradicts the checkpoint, which has {info.num_classes}. Omit num_classes=.")
    if not meta["widths"]:
        return model.to("meta"), None
    return model.to("meta"), build_meta_model(meta["config"], info.pixels.channels, num_classes=info.num_classes)


def load_model(ckpt: str | Path) -> SegModel:
    """Load the model of a checkpoint in evaluation mode, on the CPU.

    The model has the dataset info of the checkpoint. Nothing that the file names is executed.

    Args:
        ckpt: a run directory (its best checkpoint), a checkpoint directory or a ``.safetensors`` file.

    Raises:
        ConfigError: the file is not a segzoo checkpoint, or its tensors do not fit its own configuration.
    """
    return load_checkpoint(ckpt=str(ckpt))[0]


def load_checkpoint(*, ckpt: str) -> tuple[SegModel, DatasetInfo, PlainDict]:
    """Load a model like ``load_model``, and its metadata.

    Returns:
        The model, the dataset info, and the metadata: ``config, dataset, widths, step, sha256, path``.
    """
    from segzoo.checkpoints.schema import CheckpointError
    from segzoo.checkpoints.serialization import read_model
    from segzoo.data.dataset_info import dataset_info_errors
    from segzoo.layers.channel_widths import conv_out_channels, set_channel_widths_
    from segzoo.layers.modes import SkipInitialization
    from segzoo.types import DatasetInfo

    try:
        state, meta = read_model(ckpt)
    except CheckpointError as error:
        raise ConfigError(f"ckpt={ckpt}: {error}") from None
    info = DatasetInfo.from_dict(meta["dataset"])
    if errors := dataset_info_errors(info.classes, info.palette, info.label_map, info.ignore):
        raise ConfigError([f"ckpt={ckpt}: its dataset info is invalid: {error}" for error in errors])
    with SkipInitialization():  # leaves the caller's random state unchanged
        model = build_model(model_sections(meta, f"ckpt={ckpt}"), info.num_classes, info.pixels.channels).float()
    try:
        set_channel_widths_(model, state) if meta["widths"] else model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"ckpt={ckpt}: its tensors do not fit its own configuration: {error}") from None
    model.info, model.origin = info, meta | {"channels": conv_out_channels(model)}
    return model.eval(), info, meta


def model_sections(meta: PlainMapping, setting: str) -> PlainDict:
    """Return the ``model`` and ``backbone`` sections of a checkpoint.

    The backbone loads no weights.

    Args:
        meta: metadata of the checkpoint.
        setting: as the user wrote it, ``<key>=<value>``, for messages.

    Raises:
        ConfigError: the sections are missing, or invalid in this version of segzoo.
    """
    config = meta["config"]
    sections = {"model": config.get("model"), "backbone": config.get("backbone") and {**config["backbone"], "weights": "none"}}
    if errors := [error for name, section in sections.items() for error in section_errors(name, section)]:
        raise ConfigError([f"{setting}: its configuration is invalid in this version of segzoo: {error}" for error in errors])
    return sections


def initial_model(config: PlainMapping, *, ckpt: str | None = None) -> tuple[SegModel | None, PlainDict]:
    """Load the model to prune, or leave it to ``build_training``.

    Args:
        config: its ``model``, ``backbone`` and ``data`` sections. Null ones come from the checkpoint.
        ckpt: a path that ``segzoo.checkpoints.paths.resolve_weight_file`` accepts. None leaves the model to ``build_training``.

    Returns:
        The model of the checkpoint or None, and metadata like that of a checkpoint: ``config``, ``dataset``, ``widths`` and
        ``sha256``, which is None without a checkpoint.

    Raises:
        ConfigError: neither a checkpoint nor a model with its data is given, or they contradict each other.
    """
    if ckpt is not None:
        model, _, meta = load_checkpoint(ckpt=ckpt)
        check_same_model(meta, config)
        return model, meta
    if errors := pruning_errors(config):
        raise ConfigError(errors)
    info = build_data(config["data"], "train").info
    sections = {name: config[name] for name in ("model", "backbone", "data")}
    return None, {"config": sections, "dataset": info.to_dict(), "widths": {}, "sha256": None}


def checkpoint_title(meta: PlainMapping) -> str:
    """Return ``<model>-<backbone>-<data>`` of a checkpoint."""
    return "-".join((meta["config"]["model"]["name"], meta["config"]["backbone"]["name"], meta["dataset"]["name"]))


def image_patterns(meta: PlainMapping) -> list[str]:
    """Patterns of the files of an image, if the training read several."""
    images = (meta["config"].get("data") or {}).get("images")
    return list(images) if isinstance(images, list | tuple) else []


def training_crop(meta: PlainMapping) -> list[int] | None:
    """Height and width of the training's crops, if it had any."""
    return (meta["config"].get("augment") or {}).get("crop")


def checkpoint_loss(meta: PlainMapping, model: SegModel) -> SegmentationLoss:
    """Build the loss that a checkpoint was trained with.

    Raises:
        ConfigError: its ``loss`` section is missing, or invalid in this version of segzoo.
    """
    if errors := section_errors("loss", meta["config"].get("loss")):
        raise ConfigError([f"{meta['path']}: its configuration is invalid in this version of segzoo: {error}" for error in errors])
    return build_loss(meta["config"]["loss"], model, meta["dataset"]["ignore"])


def check_same_model(meta: PlainMapping, given: PlainMapping) -> None:
    """Reject ``model`` and ``backbone`` settings that contradict the checkpoint.

    Raises:
        ConfigError: names every setting that differs.
    """
    stored, errors = meta["config"], []
    for section in ("model", "backbone"):
        for key, value in (given.get(section) or {}).items():
            if key != "weights" and key in stored[section] and value != stored[section][key]:
                errors.append(
                    f"{section}.{key}={value} contradicts the checkpoint, which has {stored[section][key]}. Omit {section}=."
                )
    if errors:
        raise ConfigError(errors)


def dataset_config(meta: PlainMapping, given: PlainMapping | None, split: str = "val") -> PlainDict:
    """Return the given data section, or else that of the checkpoint.

    Settings without a name change the section of the checkpoint. Its environment variables are resolved.

    Args:
        meta: metadata of the checkpoint.
        given: a whole ``data`` section, some of its settings, or None.
        split: the split that is used. ``all`` needs nothing that separates the splits.

    Raises:
        ConfigError: the given data is invalid, or has other classes or pixels than the checkpoint.
    """
    if given is None or "name" not in given:
        stored = meta["config"].get("data")
        if stored is None:
            raise ConfigError("the checkpoint does not say which data it was trained on. Set data=<name>.")
        kept = {key: _resolve_env(key, value) for key, value in stored.items() if key not in (given or {})}
        given, is_own = kept | dict(given or {}), not given
        if is_own:
            return given
        if errors := _normalization_errors(meta["dataset"], given):
            raise ConfigError(errors)
        if errors := section_errors("data", given):
            raise ConfigError(errors)
    trained, info = tuple(meta["dataset"]["classes"]), build_data(given, split).info
    if info.classes != trained:
        raise ConfigError(
            f"data={info.name} has the classes {', '.join(info.classes)}; the checkpoint was trained on {', '.join(trained)}. "
            "Omit data= to evaluate on the checkpoint's own data, or train on this one."
        )
    stored = meta["dataset"]
    own = PixelFormat(len(stored["mean"]), stored.get("bits", 8)) if "mean" in stored else info.pixels
    if info.pixels != own:
        raise ConfigError(
            f"data={info.name} has images with {info.pixels}; the checkpoint takes {own}. Set data.channels={own.channels} "
            f"data.bits={own.bits}, with images of that kind."
        )
    return dict(given)


def _normalization_errors(stored: PlainMapping, given: PlainMapping) -> list[str]:
    """Reject statistics that differ from those of the training.

    The network's own are used, so others would have no effect.
    """
    return [
        f"data.{key}={list(given[key])} contradicts the checkpoint, whose images were normalized with {list(stored[key])}. Omit data.{key}=."
        for key in ("mean", "std")
        if given.get(key) is not None and key in stored and list(given[key]) != list(stored[key])
    ]


def _resolve_env(key: str, value: object) -> object:
    """Resolve ``${oc.env:SEGZOO_DATA,default}`` at the start of ``root``.

    Raises:
        ConfigError: there is another interpolation. A checkpoint of somebody else must not read the environment.
    """
    if isinstance(value, list | tuple):
        return [_resolve_env(key, item) for item in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    match = re.match(r"\$\{oc\.env:SEGZOO_DATA(?:,([^}]*))?\}", value)
    if key != "root" or match is None or "${" in value[match.end() :]:
        raise ConfigError(
            f"data.{key} of the checkpoint is {value}. Of the environment, only SEGZOO_DATA is read, and only in data.root. Set "
            f"data.{key}=<value>."
        )
    return os.environ.get("SEGZOO_DATA", match[1] or "") + value[match.end() :]
