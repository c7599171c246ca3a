"""The one joint of the house: a composed configuration becomes checked objects.

Sections are built by their registry, frame words are the keyword-only parameters of the functions they steer; rules between
sections stand in ``segzoo/rules.py``. Importing this module imports no torch; checking a configuration does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segzoo.registry import (
    AUGMENTS,
    BACKBONES,
    DATA,
    DISTILLS,
    INITS,
    LOSSES,
    MIXES,
    MODELS,
    OPTIMS,
    POSTS,
    PRUNERS,
    RUNTIMES,
    SCHEDULES,
    ConfigError,
    Registry,
    Setting,
    setting_faults,
    settings_of,
    shape,
    unknown,
)

if TYPE_CHECKING:
    from segzoo.engine.train import Parts
    from segzoo.models._base import SegModel
    from segzoo.types import DataCard, Dataset

SECTIONS: dict[str, Registry] = {
    "model": MODELS,
    "backbone": BACKBONES,
    "data": DATA,
    "augment": AUGMENTS,
    "mix": MIXES,
    "loss": LOSSES,
    "optim": OPTIMS,
    "schedule": SCHEDULES,
    "init": INITS,
    "pruner": PRUNERS,
    "distill": DISTILLS,
    "post": POSTS,
    "runtime": RUNTIMES,
}
TRAINING = tuple(name for name in SECTIONS if name not in ("post", "runtime"))


@dataclass(frozen=True)
class Frame:
    """One tool's configuration.

    Attributes:
        sections: the sections it holds.
        steers: the functions whose keyword-only parameters are its plain words, as ``module:name``.
        from_checkpoint: sections that may be null because a checkpoint brings them.
    """

    sections: tuple[str, ...]
    steers: tuple[str, ...]
    from_checkpoint: tuple[str, ...] = ()

    def words(self) -> dict[str, Setting]:
        """The plain words of the frame, read off the functions it steers."""
        return {name: setting for path in self.steers for name, setting in settings_of(_function(path)).items()}


FRAMES = {
    "train": Frame(TRAINING, ("segzoo.engine.train:train", "segzoo.engine.run:open_run", "segzoo.engine.slots:claim_gpu")),
    "eval": Frame(
        ("model", "backbone", "data", "post"),
        ("segzoo.engine.evaluate:evaluate", "segzoo.engine.run:open_result", "segzoo.zoo:load_with_config"),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "describe": Frame(
        ("model", "backbone"), ("segzoo.describe:describe", "segzoo.zoo:outlines"), from_checkpoint=("model", "backbone")
    ),
    "export": Frame(
        ("data",),
        ("segzoo.engine.deliver:deliver", "segzoo.engine.run:open_result", "segzoo.zoo:load_with_config"),
        from_checkpoint=("data",),
    ),
    "bench": Frame(
        ("model", "backbone", "data", "runtime"),
        (
            "segzoo.engine.bench:bench",
            "segzoo.engine.run:open_result",
            "segzoo.subject:subject",
            "segzoo.subject:bench_pictures",
            "segzoo.measured:measured_row",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "prune": Frame(
        TRAINING,
        (
            "segzoo.engine.train:train",
            "segzoo.engine.run:open_run",
            "segzoo.engine.slots:claim_gpu",
            "segzoo.zoo:start_of",
            "segzoo.pruned:stages",
            "segzoo.pruned:timed_rows",
        ),
        from_checkpoint=("model", "backbone", "data"),
    ),
    "predict": Frame(("post",), ("segzoo.engine.predict:predict", "segzoo.engine.run:open_result", "segzoo.zoo:load_with_config")),
}


def check(frame: str, config: Mapping[str, Any]) -> None:
    """Refuses a configuration that cannot work, before any data file is opened.

    Raises:
        ConfigError: with every fault found, one line each.
    """
    if faults := faults_of(frame, config):
        raise ConfigError(faults)


def faults_of(frame: str, config: Mapping[str, Any]) -> list[str]:
    """Every fault of a configuration: names, types and ranges of all sections and words, then pairs that cannot work."""
    known = FRAMES[frame]
    faults = []
    for section in known.sections:
        faults += section_faults(section, config.get(section), optional=section in known.from_checkpoint)
    words = {key: value for key, value in config.items() if key not in known.sections}
    misplaced = [key for key in words if key in SECTIONS]
    faults += [unknown("section", key, known.sections) for key in misplaced]
    given = {key: value for key, value in words.items() if key not in misplaced}
    faults += setting_faults(known.words(), given, "", f"tools/{frame}.py")
    if not faults and frame == "train":
        from segzoo.rules import training_faults

        faults = training_faults(config)
    return faults


def settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without its name: what its builder takes."""
    return {key: value for key, value in section.items() if key != "name"}


def build_data(section: Mapping[str, Any], split: str) -> Dataset:
    """The data set of a section for ``split`` (``train`` or ``val``); opens no file."""
    return DATA.build(section["name"], split, **settings(section))


def build_model(config: Mapping[str, Any], num_classes: int) -> SegModel:
    """The model of a configuration's ``model`` and ``backbone`` sections, with the trunk weights they ask for."""
    backbone = BACKBONES.build(config["backbone"]["name"], **settings(config["backbone"]))
    return MODELS.build(config["model"]["name"], backbone, num_classes, **settings(config["model"]))


def build_training(config: Mapping[str, Any], recorded: Mapping[str, Any]) -> Parts:
    """Build everything that a training needs from a checked configuration.

    Seeds torch's global generator with ``seed`` first, so that the initial weights depend on the configuration alone.

    Args:
        config: the resolved configuration.
        recorded: what is written into checkpoints: the same with environment words left standing.
    """
    import torch

    from segzoo.engine.slim import widths_of
    from segzoo.engine.train import Parts

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
    from segzoo.zoo import load_with_config

    return load_with_config(ckpt=ckpt)[:2]


def build_post(section: Mapping[str, Any]) -> Any:
    """What makes labels of class probabilities, or None for their arg-max."""
    return POSTS.build(section["name"], **settings(section))


def words_for(function: Callable, config: Mapping[str, Any]) -> dict[str, Any]:
    """The words of a configuration that steer one function: its keyword-only parameters, in the containers its types name."""
    known = settings_of(function)
    return {key: shape(config[key], setting.type) for key, setting in known.items() if key in config}


def section_faults(section: str, given: Any, optional: bool = False) -> list[str]:
    """What is wrong with one section by itself."""
    registry = SECTIONS[section]
    if given is None:
        return [] if optional else [f"{section} is missing. Choose one: {section}={'|'.join(registry.names())}."]
    if not isinstance(given, Mapping) or not isinstance(given.get("name"), str):
        return [f"{section}: wanted a table with a name and settings, got {given!r}. Legal names: {', '.join(registry.names())}."]
    return registry.faults(given["name"], settings(given), section)


def _function(path: str) -> Callable:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
