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
    from segzoo.training.components import Parts
    from segzoo.types import DataCard
from segzoo.config.build import build_data, build_model
from segzoo.config.sections import settings


def build_training(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> Parts:
    """Build everything that a training needs from a checked configuration.

    Seeds torch's global generator with ``seed`` first, so that the initial weights depend on the configuration alone.

    Args:
        config: the resolved configuration.
        recorded: what is written into checkpoints: the same with environment words left standing.
    """
    import torch

    from segzoo.layers.channel_widths import widths_of
    from segzoo.training.components import Parts

    torch.manual_seed(config["seed"])
    train_set, val_set = build_data(config["data"], "train"), build_data(config["data"], "val")
    card = train_set.card
    model = build_model(config, card.num_classes)
    model.card = card
    full = widths_of(model)
    INITS.build(config["init"]["name"], model, card.classes, **settings(config["init"]))
    optim, schedule = config["optim"], config["schedule"]
    return Parts(
        model=model,
        train_set=train_set,
        val_set=val_set,
        augment=AUGMENTS.build(config["augment"]["name"], card, **settings(config["augment"])),
        loss=LOSSES.build(
            config["loss"]["name"], model.aux_weights, model.align_corners, card.ignore, model.loss_at, **settings(config["loss"])
        ),
        make_optimizer=lambda net: OPTIMS.build(optim["name"], net, **settings(optim)),
        make_schedule=lambda total: SCHEDULES.build(schedule["name"], total, **settings(schedule)),
        card=card,
        config=dict(recorded),
        mix=MIXES.build(config["mix"]["name"], **settings(config["mix"])),
        pruner=PRUNERS.build(config["pruner"]["name"], **settings(config["pruner"])),
        distill=DISTILLS.build(config["distill"]["name"], _trained, card, **settings(config["distill"])),
        widths={name: width for name, width in widths_of(model).items() if width != full[name]},
    )


def _trained(ckpt: str) -> tuple[SegModel, DataCard]:
    """The network of a checkpoint, and what it knows."""
    from segzoo.config.from_checkpoint import load_with_config

    return load_with_config(ckpt=ckpt)[:2]
