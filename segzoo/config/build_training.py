"""Build everything that a training needs from a checked configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.registry import (
    AUGMENTS,
    DISTILLS,
    INITS,
    LOSSES,
    MIXES,
    OPTIMS,
    PRUNERS,
    SCHEDULES,
)

if TYPE_CHECKING:
    from segzoo.models._base import SegModel
    from segzoo.training.components import TrainingComponents
    from segzoo.types import DatasetInfo
from segzoo.config.build import build_data, build_model
from segzoo.config.sections import section_settings


def build_training(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> TrainingComponents:
    """Build everything that a training needs from a checked configuration.

    Seeds torch's global generator with ``seed`` first, so that the initial weights depend on the configuration alone.

    Args:
        config: the resolved configuration.
        recorded: what is written into checkpoints: the same with environment words left standing.
    """
    import torch

    from segzoo.layers.channel_widths import conv_out_channels
    from segzoo.training.components import TrainingComponents

    torch.manual_seed(config["seed"])
    train_set, val_set = build_data(config["data"], "train"), build_data(config["data"], "val")
    info = train_set.info
    model = build_model(config, info.num_classes)
    model.info = info
    full = conv_out_channels(model)
    INITS.build(config["init"]["name"], model, info.classes, **section_settings(config["init"]))
    optim, schedule = config["optim"], config["schedule"]
    return TrainingComponents(
        model=model,
        train_set=train_set,
        val_set=val_set,
        augment=AUGMENTS.build(config["augment"]["name"], info, **section_settings(config["augment"])),
        loss=LOSSES.build(
            config["loss"]["name"],
            model.aux_weights,
            model.align_corners,
            info.ignore,
            model.loss_resolution,
            **section_settings(config["loss"]),
        ),
        make_optimizer=lambda net: OPTIMS.build(optim["name"], net, **section_settings(optim)),
        make_schedule=lambda total: SCHEDULES.build(schedule["name"], total, **section_settings(schedule)),
        info=info,
        config=dict(recorded),
        mix=MIXES.build(config["mix"]["name"], **section_settings(config["mix"])),
        pruner=PRUNERS.build(config["pruner"]["name"], **section_settings(config["pruner"])),
        distill=DISTILLS.build(config["distill"]["name"], _load_teacher, info, **section_settings(config["distill"])),
        widths={name: width for name, width in conv_out_channels(model).items() if width != full[name]},
    )


def _load_teacher(ckpt: str) -> tuple[SegModel, DatasetInfo]:
    """The network of a checkpoint, and what it knows."""
    from segzoo.config.from_checkpoint import load_checkpoint

    return load_checkpoint(ckpt=ckpt)[:2]
