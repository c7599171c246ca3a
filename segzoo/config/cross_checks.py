"""What two sections must agree on: pairs of settings, each valid by itself, that cannot work together.

The model is built on the meta device, where it costs no memory and no weights are read, so that every rule a builder
states itself (a wrong number of bins, a width only ResNets have) is heard here as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.config.build import build_data, build_meta_model
from segzoo.config.sections import section_settings
from segzoo.registry import AUGMENTS, LOSSES, OPTIMS, PRUNERS, RUNTIMES, SCHEDULES, ConfigError, unknown_name_error

if TYPE_CHECKING:
    from segzoo.models._base import SegModel
    from segzoo.types import DatasetInfo

EPOCHS_ONLY = 10**9  # steps assumed where the length in steps is known only once the images are counted


def training_errors(config: Mapping[str, Any]) -> list[str]:
    """Every pair of a training's settings that cannot work, one line each. Opens no data file."""
    faults = _length_errors(config) + _device_errors(config) + _path_errors(config)
    data = _collect_errors(lambda: build_data(config["data"], "train"), "data", faults)
    if data is None:
        return faults
    info = data.info
    model = _collect_errors(lambda: build_meta_model(config, num_classes=info.num_classes), "model", faults)
    _collect_errors(
        lambda: AUGMENTS.build(config["augment"]["name"], info, **section_settings(config["augment"])), "augment", faults
    )
    _collect_errors(
        lambda: SCHEDULES.build(config["schedule"]["name"], config["steps"] or EPOCHS_ONLY, **section_settings(config["schedule"])),
        "schedule",
        faults,
    )
    faults += _class_weight_errors(config, info)
    if model is not None:
        loss = config["loss"]
        _collect_errors(
            lambda: LOSSES.build(
                loss["name"], model.aux_weights, model.align_corners, info.ignore, model.loss_resolution, **section_settings(loss)
            ),
            "loss",
            faults,
        )
        _collect_errors(lambda: OPTIMS.build(config["optim"]["name"], model, **section_settings(config["optim"])), "optim", faults)
        _collect_errors(lambda: _check_pruner(config, model), "pruner", faults)
        faults += _runtime_errors(config)
        _collect_errors(lambda: _check_distilled_layers(config["distill"], model), "distill", faults)
        if config["backbone"].get("weights") == "imagenet":
            _collect_errors(model.backbone.imagenet, "backbone.weights", faults)
        faults += _size_errors(config, model)
    return faults


def _check_pruner(config: Mapping[str, Any], model: SegModel) -> None:
    pruner = PRUNERS.build(config["pruner"]["name"], **section_settings(config["pruner"]))
    if pruner is not None:
        pruner.stages(config["steps"] or EPOCHS_ONLY)
        pruner.check(model)


def _check_distilled_layers(distill: Mapping[str, Any], model: SegModel) -> None:
    """The layers that a teacher and its student are to be compared at must answer maps in both; run at no cost."""
    import torch

    from segzoo.checkpoints.serialization import read_metadata
    from segzoo.losses.distillation import check_layers

    ckpt = distill.get("ckpt")
    if not distill.get("layers") or ckpt is None or not Path(ckpt).exists():
        return  # what is missing is another rule's
    meta = read_metadata(ckpt)
    if "config" in meta:  # else it is no checkpoint, which loading it says
        net = build_meta_model(meta["config"], num_classes=len(meta["dataset"]["classes"])).eval()
        check_layers(model.train(), net, tuple(distill["layers"]), torch.empty(2, 3, 257, 257, device="meta"))


def _runtime_errors(config: Mapping[str, Any]) -> list[str]:
    """Runtimes that are asked for times must be registered, and know the number format; whether they are installed is seen later."""
    from segzoo.runtimes._base import supported_precisions

    pruner, known = config["pruner"], RUNTIMES.names()
    faults = [
        unknown_name_error("runtime in bench_runtimes", name, known)
        for name in config.get("bench_runtimes") or ()
        if name not in known
    ]
    if pruner.get("runtime", known[0]) not in known:
        return [*faults, unknown_name_error("pruner.runtime", pruner["runtime"], known)]
    if pruner.get("target_ms") is not None and pruner["precision"] not in (
        able := supported_precisions(RUNTIMES.get(pruner["runtime"]))
    ):
        faults.append(
            f"pruner.precision={pruner['precision']}: {pruner['runtime']} does not run in it. Say pruner.precision={'|'.join(able)}, or "
            "take another pruner.runtime."
        )
    return faults


def pruning_warnings(pruner: Mapping[str, Any]) -> list[str]:
    """What a pruner's settings allow but its user will seldom mean, one line each."""
    if pruner.get("sparsity") and pruner["start"] == 0 and len(pruner["keep_schedule"] or [0]) == 1:
        return [
            f"pruner.sparsity={pruner['sparsity']:g} does nothing, since all channels go before the first step. With "
            "pruner.start=0.5 the first half of the training presses the scales of those that go."
        ]
    return []


def training_warnings(config: Mapping[str, Any], model: SegModel) -> list[str]:
    """What a training's settings allow but its user will seldom mean, one line each."""
    found = pruning_warnings(config["pruner"])
    given = config["backbone"].get("weights", "none") != "none" or config["init"].get("ckpt") is not None
    if given or model.backbone.trains_from_scratch:
        return found
    return [
        *found,
        f"{model.backbone.name} without batch norm hardly trains from scratch. Set backbone=vgg16_bn, backbone.weights=imagenet, "
        "or init.ckpt=<run>.",
    ]


def _collect_errors(build: Callable[[], Any], section: str, faults: list[str]) -> Any:
    """What ``build`` makes, or None with its complaint among the errors."""
    try:
        return build()
    except ConfigError as error:
        faults += error.errors
    except ValueError as error:
        faults.append(f"{section}: {error}")
    return None


def _length_errors(config: Mapping[str, Any]) -> list[str]:
    steps, epochs = config.get("steps"), config.get("epochs")
    if steps is not None and epochs is not None:
        return [f"steps={steps} and epochs={epochs} are both given. Keep one: steps=null or epochs=null."]
    return ["neither steps nor epochs is given. Say how long to train: steps=300 or epochs=50."] if steps is epochs is None else []


def _device_errors(config: Mapping[str, Any]) -> list[str]:
    import torch

    if config.get("device") == "cuda" and not torch.cuda.is_available():
        return ["device=cuda: this machine has no CUDA device that torch can use. Write device=auto or device=cpu."]
    return []


def _path_errors(config: Mapping[str, Any]) -> list[str]:
    """Files a command names must be there; checkpoints and weight files are read long after this check."""
    from segzoo.weights import is_published, published

    faults: list[str] = []
    sections = (("init", "ckpt"), ("backbone", "weights"), ("distill", "ckpt"))
    for word, path in ((f"{section}.{key}", config[section].get(key)) for section, key in sections):
        if word == "init.ckpt" and path is not None and is_published(path):
            _collect_errors(partial(published, path), "init.ckpt", faults)
            continue
        if path not in (None, "none", "imagenet") and not Path(path).exists():
            faults.append(f"{word}={path}: there is no such file or folder (looked from {os.path.basename(os.getcwd())}/).")
    if config["distill"]["name"] == "teacher" and config["distill"].get("ckpt") is None:
        faults.append("distill=teacher: whose network teaches? Say distill.ckpt=<run directory or file>.")
    resume = config.get("resume", "none")
    if resume not in ("none", "auto") and not Path(resume).exists():
        faults.append(f"resume={resume}: there is no such run. Write resume=auto, resume=none or the path of a run directory.")
    return faults


def _class_weight_errors(config: Mapping[str, Any], info: DatasetInfo) -> list[str]:
    weights = config["loss"].get("class_weights")
    if weights is None or len(weights) == info.num_classes:
        return []
    names = ", ".join(info.classes)
    return [
        f"loss.class_weights has {len(weights)} numbers, data={info.name} has {info.num_classes} classes ({names}): one weight each."
    ]


def _size_errors(config: Mapping[str, Any], model: SegModel) -> list[str]:
    """One training step's shapes on the meta device: a crop too small for the model is known before any image is read."""
    import torch

    crop = config["augment"].get("crop") or [config["data"].get("height"), config["data"].get("width")]
    if None in crop:
        return []  # the images' own size, known only when they are opened
    faults: list[str] = []
    batch = torch.empty(config["batch_size"], 3, *crop, device="meta")
    _collect_errors(lambda: model.train()(batch), "augment.crop" if config["augment"].get("crop") else "data", faults)
    return faults
