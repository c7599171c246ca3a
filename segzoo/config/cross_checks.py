"""Checks of settings that are valid by themselves but not together.

The model is built on the meta device, where it takes no memory and reads no weights. This applies the rules of each builder as well, such
as the number of bins, or a width that only ResNets have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from segzoo.checkpoints.paths import is_published
from segzoo.config.build import build_data, build_loss, build_meta_model, fill_class_weights
from segzoo.config.checks.compilation import compile_errors
from segzoo.config.from_weights import choose_normalization, has_unit_scale
from segzoo.config.sections import section_settings, training_size
from segzoo.messages import format_override, unknown_name_error
from segzoo.pixel_format import MEASURE
from segzoo.registry import AUGMENTS, OPTIMS, PRUNERS, RUNTIMES, SCHEDULES, ConfigError
from segzoo.runs.resume_checks import names_a_run
from segzoo.types import PlainMapping

if TYPE_CHECKING:
    from segzoo.models._base import SegModel
    from segzoo.types import DatasetInfo

T = TypeVar("T")
AMPLE_SIDE = 256  # pixels of a crop from which every model runs on the tested backbones
TESTED_BACKBONES = ("segzoo.backbones.resnet", "segzoo.backbones.vgg")
UNKNOWN_LENGTH = 10**9  # assumed steps if the length is given in epochs, since no images have been counted yet


def training_errors(config: PlainMapping) -> list[str]:
    """List the errors of a training's configuration, one line each.

    No data file is opened.
    """
    errors = _device_errors(config)
    data = _collect_errors(lambda: build_data(config["data"], "train"), "data", errors)
    if data is None:
        return errors
    info, steps = data.info, config["steps"] or UNKNOWN_LENGTH
    augment, schedule, optim = config["augment"], config["schedule"], config["optim"]
    model = _collect_errors(lambda: build_meta_model(config, info.pixels.channels, num_classes=info.num_classes), "model", errors)
    _collect_errors(lambda: AUGMENTS.build(augment["name"], info, **section_settings(augment)), "augment", errors)
    _collect_errors(lambda: SCHEDULES.build(schedule["name"], steps, **section_settings(schedule)), "schedule", errors)
    _collect_errors(lambda: _check_init(config["init"], model), "init", errors)
    errors += _class_weight_errors(config["loss"], info)
    if model is not None:
        _collect_errors(lambda: build_loss(fill_class_weights(config["loss"], lambda: None), model, info.ignore), "loss", errors)
        _collect_errors(lambda: OPTIMS.build(optim["name"], model, **section_settings(optim)), "optim", errors)
        _collect_errors(lambda: _check_pruner(config, model), "pruner", errors)
        errors += _runtime_errors(config)
        _collect_errors(lambda: _check_distilled_layers(config["distill"], model), "distill", errors)
        if config["backbone"].get("weights") == "imagenet":
            _collect_errors(model.backbone.imagenet, "backbone.weights", errors)
        errors += _size_errors(config, model) + compile_errors(config)
    if config["model"].get("msc") == "frozen" and config["init"].get("ckpt") is None and config.get("ckpt") is None:
        errors.append(
            "model.msc=frozen trains only the multi-scale branches, on top of a trained network. Set init.ckpt=<run of model=deeplab_largefov>, or "
            "model.msc=joint."
        )
    if not errors:  # it reads weight files
        _collect_errors(lambda: choose_normalization(config, normalization=config["normalization"]), "normalization", errors)
    return errors


def _check_pruner(config: PlainMapping, model: SegModel) -> None:
    pruner = PRUNERS.build(config["pruner"]["name"], **section_settings(config["pruner"]))
    if pruner is not None:
        pruner.stages(config["steps"] or UNKNOWN_LENGTH)
        pruner.check(model)


def _check_init(init: PlainMapping, model: SegModel | None) -> None:
    from segzoo.weights import published
    from segzoo.weights.load_model import imagenet_entry

    ckpt = init.get("ckpt")
    if ckpt == "imagenet" and model is not None:
        imagenet_entry(model.backbone, init.get("narrow", "none"))
    elif ckpt is not None and is_published(ckpt):
        published(ckpt)


def _check_distilled_layers(distill: PlainMapping, model: SegModel) -> None:
    """Require distilled layers to output feature maps in teacher and student."""
    import torch

    from segzoo.checkpoints.serialization import read_metadata
    from segzoo.config.from_checkpoint import model_sections
    from segzoo.losses.distillation import check_layers

    ckpt = distill.get("ckpt")
    if not distill.get("layers") or ckpt is None:
        return
    meta = read_metadata(ckpt)
    if meta:  # otherwise loading reports that the file is not a checkpoint
        sections, channels = model_sections(meta, f"distill.ckpt={ckpt}"), len(meta["dataset"]["mean"])
        if channels == model.input_channels:  # otherwise an error when the teacher is loaded
            teacher = build_meta_model(sections, channels, num_classes=len(meta["dataset"]["classes"])).eval()
            check_layers(model.train(), teacher, tuple(distill["layers"]), torch.empty(2, channels, 257, 257, device="meta"))


def _runtime_errors(config: PlainMapping) -> list[str]:
    """Require registered runtimes that support the requested precision.

    Whether they are installed is checked later.
    """
    from segzoo.runtimes._base import supported_precisions

    pruner, known = config["pruner"], RUNTIMES.names()
    errors = [
        unknown_name_error("runtime in bench_runtimes", name, known)
        for name in config.get("bench_runtimes") or ()
        if name not in known
    ]
    if pruner.get("runtime", known[0]) not in known:
        return [*errors, unknown_name_error("pruner.runtime", pruner["runtime"], known)]
    if pruner.get("target_ms") is not None and pruner["precision"] not in (
        supported := supported_precisions(RUNTIMES.get(pruner["runtime"]))
    ):
        errors.append(
            f"pruner.precision={pruner['precision']}: {pruner['runtime']} does not support it. Set pruner.precision={'|'.join(supported)}, or "
            "choose another pruner.runtime."
        )
    return errors


def pruning_warnings(pruner: PlainMapping) -> list[str]:
    """List pruner settings that are valid but rarely intended, one line each."""
    if pruner.get("sparsity") and pruner["start"] == 0 and len(pruner["keep_schedule"] or [0]) == 1:
        return [
            f"pruner.sparsity={pruner['sparsity']:g} does nothing, because all channels are removed before the first step. Set "
            "pruner.start=0.5 to penalize the scales of the channels to remove during the first half of the training."
        ]
    return []


def training_warnings(config: PlainMapping, model: SegModel) -> list[str]:
    """List training settings that are valid but rarely intended, one line each."""
    warnings = pruning_warnings(config["pruner"])
    info = build_data(config["data"], "train").info
    warnings += _scale_warnings(config["data"], info)
    if config["sampler"]["name"] == "rare_class" and config["augment"].get("crop") is None:
        warnings.append(
            "sampler=rare_class draws whole images, as augment.crop is null. Set 'augment.crop=[H,W]' to crop around pixels."
        )
    if config["pruner"].get("sparsity") and not _has_trained_batch_norm(model):
        warnings.append("pruner.sparsity has no effect: it penalizes the scales of batch norm, and the network trains none.")
    pretrained = (
        names_a_run(config.get("resume"))
        or config["backbone"].get("weights", "none") != "none"
        or config["init"].get("ckpt") is not None
    )
    if config["init"].get("freeze") and not pretrained:
        warnings.append(
            "init.freeze keeps random weights, as nothing is loaded. Set init.ckpt=<run>, or backbone.weights=imagenet."
        )
    if pretrained or model.backbone.trains_from_scratch:
        return warnings
    return [
        *warnings,
        f"{model.backbone.name} without batch norm barely trains from scratch. Set backbone=vgg16_bn, backbone.weights=imagenet, "
        "or init.ckpt=<run>.",
    ]


def _has_trained_batch_norm(model: SegModel) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    scales = [layer.weight for layer in model.modules() if isinstance(layer, _BatchNorm)]
    return any(scale is not None and scale.requires_grad for scale in scales)


def _scale_warnings(data: PlainMapping, info: DatasetInfo) -> list[str]:
    """Warn about statistics on another scale than the samples, and unmeasured ones."""
    largest, unit = info.pixels.largest, has_unit_scale(info.normalization)
    if unit or (largest > 255 and max(info.mean) < 256 and max(info.std) < 256):
        factor = largest if unit else 257
        mean, std = ([round(factor * value, 3) for value in values] for values in info.normalization)
        return [
            f"data.mean and data.std are on the scale 0 to {1 if unit else 255}, but images have 0 to {largest}. Set "
            f"{format_override('data.mean', mean)} {format_override('data.std', std)}."
        ]
    if info.pixels.is_rgb or not {"mean", "std"} <= {key for key, value in data.items() if value is None}:
        return []
    return [
        f"data.mean and data.std are null, so the images with {info.pixels} are normalized by the range of their samples. {MEASURE} "
        f"data.channels={info.pixels.channels} data.bits={info.bits}"
    ]


def _collect_errors(build: Callable[[], T], section: str, errors: list[str]) -> T | None:
    """Call ``build`` and return its result, or None if it fails.

    The message of the error is added to ``errors``.
    """
    try:
        return build()
    except ConfigError as error:
        errors += error.errors
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # of torch, such as a size beyond 64 bits
        errors.append(f"{section}: {' '.join(str(error).split())}")
    return None


def _device_errors(config: PlainMapping) -> list[str]:
    import torch

    if config.get("device") == "cuda" and not torch.cuda.is_available():
        return ["device=cuda: this machine has no CUDA device that torch can use. Set device=auto or device=cpu."]
    return []


def _class_weight_errors(section: PlainMapping, info: DatasetInfo, path: str = "loss") -> list[str]:
    """Check the class weights of a loss and of its parts."""
    errors = []
    for key, weights in section.items():
        if isinstance(weights, Mapping):
            errors += _class_weight_errors(weights, info, f"{path}.{key}")
        elif key == "class_weights" and isinstance(weights, list | tuple):
            if not any(weights):
                errors.append(f"{path}.class_weights are all 0, so there is no loss. Give a weight above 0 to at least one class.")
            elif len(weights) != info.num_classes:
                errors.append(
                    f"{path}.class_weights has {len(weights)} values, data={info.name} has {info.num_classes} classes "
                    f"({', '.join(info.classes)}). Give one weight per class."
                )
    return errors


def _size_errors(config: PlainMapping, model: SegModel) -> list[str]:
    """Run a forward pass on the meta device to detect small crops.

    It imports PyTorch's compiler, which takes seconds, so ample crops of known networks are not run.
    """
    import torch

    from segzoo.layers.modes import ShapesOnly

    size = training_size(config)
    if size is None:
        return []  # unknown until the images are opened
    is_tested = type(model).__module__.startswith("segzoo.models.") and type(model.backbone).__module__ in TESTED_BACKBONES
    if is_tested and min(size) >= AMPLE_SIDE:
        return []
    errors: list[str] = []
    batch = torch.empty(config["batch_size"], model.input_channels, *size, device="meta")
    with ShapesOnly():
        _collect_errors(lambda: model.train()(batch), "augment.crop" if config["augment"].get("crop") else "data", errors)
    return errors
