"""Build everything that a training needs from a validated configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING

from segzoo.config.build import build_data, build_loss, build_model, fill_class_weights
from segzoo.config.from_weights import choose_normalization
from segzoo.config.sections import section_settings
from segzoo.registry import AUGMENTS, DISTILLS, INITS, LOGGERS, MIXES, OPTIMS, PRUNERS, SAMPLERS, SCHEDULES
from segzoo.types import PlainDict, PlainMapping

if TYPE_CHECKING:
    import numpy as np

    from segzoo.data.balance.sampling import Sampler
    from segzoo.distributed import Distributed
    from segzoo.loggers._base import LoggedRun, RunLogger
    from segzoo.loggers.group import LoggerGroup
    from segzoo.models._base import SegModel
    from segzoo.runs.run_dir import RunDir
    from segzoo.training.components import TrainingComponents
    from segzoo.types import Dataset, DatasetInfo


def build_training(
    config: PlainMapping,
    recorded: PlainMapping,
    model: SegModel | None = None,
    widths: Mapping[str, int] | None = None,
    dist: Distributed | None = None,
) -> TrainingComponents:
    """Build everything that a training needs.

    Seeds torch's global generator with ``seed`` first, so the initial weights depend only on the configuration.

    Args:
        config: the resolved configuration.
        recorded: the same with environment interpolations unresolved, as written into checkpoints.
        model: a loaded model to train instead of a new one.
        widths: output channels of its layers that pruning changed. None takes those that the ``init`` section changes.
        dist: the ranks that train together; None: this process alone.

    Raises:
        DataError: labels that class weights or a sampler need are invalid.
    """
    import torch

    from segzoo.layers.channel_widths import conv_out_channels
    from segzoo.training.components import TrainingComponents
    from segzoo.weights import log_rank0

    torch.manual_seed(config["seed"])
    data, note = choose_normalization(config, normalization=config.get("normalization", "same"))
    if note:
        log_rank0(f"note: {note}")
    config = {**config, "data": data}
    recorded = {**recorded, "data": {**recorded["data"], **{key: data[key] for key in ("mean", "std") if key in data}}}
    train_set, val_set = build_data(config["data"], "train"), build_data(config["data"], "val")
    info = train_set.info
    loss, sampler = _balance_classes(config, train_set, dist)
    if model is None:
        model = build_model(config, info.num_classes, info.pixels.channels)
    model.info = info
    built_widths = conv_out_channels(model)
    INITS.build(config["init"]["name"], model, info.classes, **section_settings(config["init"]))
    if widths is None:
        widths = {name: width for name, width in conv_out_channels(model).items() if width != built_widths[name]}
    optim, schedule = config["optim"], config["schedule"]
    return TrainingComponents(
        model=model,
        train_set=train_set,
        val_set=val_set,
        augment=AUGMENTS.build(config["augment"]["name"], info, **section_settings(config["augment"])),
        loss=build_loss(loss, model, info.ignore),
        make_optimizer=lambda net: OPTIMS.build(optim["name"], net, **section_settings(optim)),
        make_schedule=lambda total_steps: SCHEDULES.build(schedule["name"], total_steps, **section_settings(schedule)),
        info=info,
        config={**recorded, "loss": loss},
        sampler=sampler,
        mix=MIXES.build(config["mix"]["name"], **section_settings(config["mix"])),
        pruner=PRUNERS.build(config["pruner"]["name"], **section_settings(config["pruner"])),
        distill=DISTILLS.build(config["distill"]["name"], _load_teacher, info, **section_settings(config["distill"])),
        widths=widths,
    )


def open_loggers(section: PlainMapping, run: RunDir, recorded: PlainMapping, dist: Distributed) -> LoggerGroup:
    """Open the loggers of a run on rank 0.

    Args:
        section: the ``logger`` section, with the settings of each logger.
        run: the run directory.
        recorded: the configuration to log, as written into checkpoints.
        dist: the ranks that train together. Those above 0 get no loggers.
    """
    from segzoo.loggers._base import LoggedRun
    from segzoo.loggers.group import NO_LOGGERS, LoggerGroup

    if not dist.is_main:
        return NO_LOGGERS
    source = run.resume_from
    logged = LoggedRun(run.path, recorded, int(source.name) if source else 0, source is not None and run.path in source.parents)
    builders = {name: partial(_open_logger, name, settings or {}) for name, settings in section.items()}
    return LoggerGroup(logged, builders)


def _open_logger(name: str, settings: PlainMapping, run: LoggedRun) -> RunLogger:
    return LOGGERS.build(name, run, **settings)


def _balance_classes(config: PlainMapping, train_set: Dataset, dist: Distributed | None) -> tuple[PlainDict, Sampler | None]:
    """Fill in automatic class weights of the loss and build the sampler.

    Rank 0 counts the classes of the training set, at most once and only if one of them needs that.
    """
    from segzoo.data.balance.class_counts import count_classes
    from segzoo.data.balance.class_weights import automatic_class_weights
    from segzoo.distributed import SINGLE_PROCESS

    @cache
    def class_counts() -> np.ndarray:
        return (dist or SINGLE_PROCESS).run_on_rank0(lambda: count_classes(train_set))

    sampler = config["sampler"]
    return (
        fill_class_weights(config["loss"], lambda: automatic_class_weights(class_counts())),
        SAMPLERS.build(sampler["name"], class_counts, **section_settings(sampler)),
    )


def _load_teacher(ckpt: str) -> tuple[SegModel, DatasetInfo]:
    from segzoo.config.from_checkpoint import load_checkpoint

    return load_checkpoint(ckpt=ckpt)[:2]
