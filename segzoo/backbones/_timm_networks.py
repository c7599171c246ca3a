"""Networks of timm as chains of modules."""

from __future__ import annotations

from collections import OrderedDict
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn

from segzoo.layers.norm import accept_single_values_
from segzoo.messages import did_you_mean
from segzoo.registry import ConfigError

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

HUB = "hub"  # the value of ``weights`` that downloads them
# encoders that timm can dilate, one of each family
DILATABLE = (
    "resnet18",
    "resnetv2_50",
    "res2net50_26w_4s",
    "resnest14d",
    "skresnet18",
    "regnety_002",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "rexnet_100",
    "convnext_tiny",
    "inception_next_tiny",
    "repvgg_a0",
)
# channel attention of timm with batch norm on a map pooled to 1x1
POOLED_ATTENTION = ("SEModule", "SplitAttn", "SelectiveKernelAttn")
# stages of timm besides nn.Sequential whose blocks can be run one by one
DOWNSAMPLED, BLOCK_LISTS = ("ConvNeXtStage", "MetaNeXtStage"), ("RegStage",)


def _import_timm() -> ModuleType:
    try:
        import timm as library
    except ImportError as error:
        raise ConfigError(f'backbone=timm needs {error.name}: pip install "segzoo[timm]"') from None
    return library


def weights_config(arch: str) -> PretrainedCfg:
    """Return timm's ``PretrainedCfg`` of an encoder's weights.

    Raises:
        ConfigError: timm has no such encoder or tag.
    """
    library, (name, _, tag) = _import_timm(), arch.partition(".")
    if not library.is_model(name):
        family = name.partition("_")[0]
        raise ConfigError(
            f"backbone.arch={arch}: timm {library.__version__} has no {name}.{did_you_mean(name, library.list_models())} List its encoders: "
            f"python -c \"import timm; print(timm.list_models('{family}*'))\""
        )
    tags = [known.partition(".")[2] for known in library.list_models(f"{name}.*", pretrained=True)]
    if tag and tag not in tags:
        known = f" Valid: {', '.join(tags)}." if tags else " It has none."
        raise ConfigError(f"backbone.arch={arch}: timm has no weights {tag!r} of {name}.{did_you_mean(tag, tags)}{known}")
    return library.get_pretrained_cfg(arch) or library.models.PretrainedCfg(architecture=name)


def build_features(arch: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build an encoder in timm's form with feature maps.

    Raises:
        ConfigError: there is no such encoder, it has no feature maps, or its weights are not available.
    """
    library, known = _import_timm(), weights_config(arch)
    if known.fixed_input_size:
        raise ConfigError(
            f"backbone.arch={arch} takes images of one size, {known.input_size[1]}x{known.input_size[2]}. Choose another."
        )
    if pretrained and not known.has_weights:
        raise ConfigError(f"backbone.weights={HUB}: timm has no weights of {arch}. Set backbone.weights to none or a file.")
    try:
        net = library.create_model(arch, pretrained=pretrained, features_only=True, **options)
        strides = [stage["reduction"] for stage in net.feature_info.info]  # type: ignore[union-attr]
        if 32 in strides and 32 not in net.feature_info.reduction():  # timm returns the first five, which may begin at stride 1
            indices = tuple(range(len(strides)))
            net = library.create_model(arch, pretrained=pretrained, features_only=True, out_indices=indices, **options)
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if pretrained:
            raise ConfigError(
                f"backbone.weights={HUB}: timm could not load the weights of {arch} ({reason}). Download the file elsewhere and set "
                "backbone.weights=<path>."
            ) from error
        raise ConfigError(f"backbone.arch={arch}: timm cannot build it with {options or 'feature maps'} ({reason}).") from error
    for name, module in list(net.named_modules()):
        if type(module).__name__ in POOLED_ATTENTION:
            accept_single_values_(module, f"the channel attention {name}")
    return net


def chain(arch: str, net: nn.Module) -> tuple[dict[str, nn.Module], list[str]]:
    """List the modules that an encoder runs one after the other.

    Returns:
        The modules by name, with ``stages_0`` for timm's ``stages.0``, and the names of those whose outputs are feature maps.

    Raises:
        ConfigError: it is not such a chain.
    """
    kind, parts = type(net).__name__, dict(net.named_children())
    if kind == "FeatureListNet" and str(net.output_fmt).endswith("NCHW") and not net.concat:
        return parts, list(net.return_layers)  # type: ignore[arg-type]
    if kind in ("EfficientNetFeatures", "MobileNetV3Features"):
        steps = parts.pop("blocks").named_children()
        names = net.feature_info.module_name()  # type: ignore[operator,union-attr]
        return parts | {f"blocks_{name}": step for name, step in steps}, [name.replace(".", "_") for name in names]
    raise ConfigError(
        f"backbone.arch={arch}: timm's {kind} is not a chain of convolutional stages, which segzoo needs. Choose another encoder, such as "
        f"{', '.join(DILATABLE)}."
    )


def divide(arch: str, net: nn.Module) -> tuple[list[nn.Sequential], list[int]]:
    """Divide an encoder into the stages c1 to c5.

    Returns:
        The stages and their channels. A stage whose stride has no feature map is empty, with 0 channels.

    Raises:
        ConfigError: the encoder is not a chain of modules, or lacks a feature map of stride 8, 16 or 32.
    """
    (modules, ends), info = chain(arch, net), net.feature_info
    strides, widths = info.reduction(), info.channels()  # type: ignore[operator,union-attr]
    if not {8, 16, 32} <= set(strides):
        raise ConfigError(
            f"backbone.arch={arch} has feature maps of strides {strides}, expected 8, 16 and 32. Choose another encoder."
        )
    last = {stride: (end, width) for stride, end, width in zip(strides, ends, widths, strict=True)}  # the last one of each stride
    names, begin, stages, channels = list(modules), 0, [], []
    for stride in (2, 4, 8, 16, 32):
        name, width = last.get(stride, ("", 0))
        end = names.index(name) + 1 if name else begin
        stages.append(nn.Sequential(OrderedDict((name, modules[name]) for name in names[begin:end])))
        channels.append(width)
        begin = end
    return stages, channels


def blocks(stage: nn.Sequential) -> tuple[list[nn.Module], int]:
    """List the blocks of a stage in order.

    A module whose parts cannot be run one by one stays whole.

    Returns:
        The modules, and the number of them up to the end of the first block, 0 if the stage cannot be divided there.
    """
    modules: list[nn.Module] = []
    first, has_list = 1, False
    for module in stage.children():
        kind = type(module).__name__
        parts: list[nn.Module] = []
        if kind in DOWNSAMPLED:
            first += not modules  # a downsampling layer stands before the first block
            parts = [module.get_submodule("downsample"), *module.get_submodule("blocks").children()]
        elif kind == "ResNetStage":
            parts = [*module.get_submodule("blocks").children()]
        elif type(module) is nn.Sequential or kind in BLOCK_LISTS:
            parts = [*module.children()]
        has_list = has_list or bool(parts)
        modules += parts or [module]
    is_block = any(True for _ in modules[0].children())  # a stage of single layers, as in VGG, has no blocks
    return modules, first if is_block and (has_list or len(modules) > first) else 0


def dilation_error(arch: str, output_stride: int) -> ConfigError:
    """Return the error for an encoder that timm cannot dilate."""
    return ConfigError(
        f"backbone.arch={arch}: timm cannot dilate this encoder to output stride {output_stride}. Choose one that it can, such as "
        f"{', '.join(DILATABLE)}; or model=fcn, which needs no dilation, or model.output_stride=32 where the model has it."
    )
