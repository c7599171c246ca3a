"""Convolutional encoders of timm: https://github.com/huggingface/pytorch-image-models."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import torch
from torch import nn

from segzoo.backbones._base import Backbone
from segzoo.backbones._timm_networks import HUB, blocks, build_features, chain, dilation_error, divide, weights_config
from segzoo.checkpoints.paths import resolve_weight_file
from segzoo.checkpoints.serialization import read_metadata
from segzoo.layers.modes import ShapesOnly, eval_mode
from segzoo.registry import BACKBONES, ConfigError
from segzoo.types import Normalization
from segzoo.weights import load_backbone, log_rank0


@BACKBONES.register
def timm(*, arch: str = "resnet18", weights: str = "none", checkpoint: bool = False) -> TimmEncoder:
    """An encoder of timm (extra ``timm``).

    Args:
        arch: name of the encoder in timm, with or without the tag of its weights, such as ``resnet50.a1_in1k``.
        weights: ``none``, ``hub`` (those of the tag, or timm's default for the encoder) or a file. See
            ``segzoo.weights.load_backbone``.
        checkpoint: whether training recomputes the activations of each block in its backward pass, which saves memory.

    Raises:
        ConfigError: timm is not installed or has no such encoder, or the encoder is not a chain of convolutional stages.
    """
    encoder = TimmEncoder(arch, build_features(arch, pretrained=weights == HUB))
    encoder.checkpoint = checkpoint
    if weights == HUB:
        log_rank0(f"weights from timm: {weights_config(arch).hf_hub_id or arch}")
    else:
        load_backbone(encoder, weights)
    return encoder


def encoder_normalization(arch: str, weights: str) -> Normalization:
    """Find the normalization that an encoder's weights were trained with.

    It is that of a segzoo checkpoint, or of the ``config.json`` that the Hub stores next to a file, or else of the encoder's tag.

    Args:
        arch, weights: as for ``timm``.
    """
    if weights not in (HUB, "imagenet"):
        if metadata := read_metadata(weights):
            return Normalization.of(metadata["dataset"])
        config = resolve_weight_file(weights).with_name("config.json")
        stored = json.loads(config.read_text(encoding="utf-8")).get("pretrained_cfg", {}) if config.is_file() else {}
        if {"mean", "std"} <= stored.keys():
            return _on_byte_scale(stored["mean"], stored["std"])
    known = weights_config(arch)
    return _on_byte_scale(known.mean, known.std)


@torch.no_grad()
def keeps_corners(arch: str, output_stride: int = 32) -> bool:
    """Return whether feature maps keep a pixel in each corner.

    Those of strided kernels of even size lie between the pixels of their input, at any size of the image.

    Args:
        arch: as for ``timm``.
        output_stride: the last stride that is not replaced by dilation.

    Raises:
        ConfigError: as ``timm``.
    """
    with torch.device("meta"), ShapesOnly():
        net = build_features(arch).eval()
        divide(arch, net)  # others cannot be built
        features = net(torch.empty(1, 3, 65, 65))
    strides = net.feature_info.reduction()  # type: ignore[operator,union-attr]
    sizes = {stride: feature.shape[-1] for stride, feature in zip(strides, features, strict=True)}  # the last one of each stride
    return all(size == 64 // stride + 1 for stride, size in sizes.items() if stride <= output_stride)


class TimmEncoder(Backbone):
    """An encoder of timm, divided where its feature maps leave it.

    A stage ``c1`` to ``c5`` holds timm's modules up to its last feature map of that stride. ``c3_1`` is the end of the first block of
    c3. Weights start as timm initializes them.

    Args:
        arch: as for ``timm``.
        net: the encoder, as timm builds it with ``features_only``.

    Attributes:
        rounds_down: whether c5 halves odd sizes by rounding down, as unpadded 2x2 kernels do.
    """

    def __init__(self, arch: str, net: nn.Module):
        stages, channels = divide(arch, net)
        super().__init__(arch, stages, channels, inner=blocks(stages[2])[1])
        halving = (2, (2, 2))
        self.rounds_down = any(
            type(layer) in (nn.Conv2d, nn.MaxPool2d) and layer.kernel_size in halving and layer.stride in halving
            for layer in self.c5.modules()
        )  # timm's own classes pad
        if self._inner:
            image = torch.zeros(1, 3, 64, 64, device=next(self.parameters()).device)
            with torch.no_grad(), eval_mode(self), ShapesOnly():
                self.channels["c3_1"] = self.forward_stages(image, last="c3_1")["c3_1"].shape[1]

    def imagenet(self, *, narrowed: bool = False) -> tuple[str, str]:
        """Reject torchvision's weights.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"backbone.weights=imagenet: torchvision's weights do not fit timm's {self.name}. Set backbone.weights={HUB}."
        )

    def key_aliases(self, keys: Collection[str]) -> dict[str, str]:
        """Timm's layer names.

        Those of a stage's modules begin with ``stages.0`` or ``stages_0``.
        """
        aliases = {}
        for i in range(1, 6):
            for name, _ in self.get_submodule(f"c{i}").named_children():
                spellings = [name, *(f"{name[:at]}.{name[at + 1 :]}" for at, letter in enumerate(name) if letter == "_")]
                aliases |= {f"{s}.": f"c{i}.{name}." for s in spellings if any(key.startswith(f"{s}.") for key in keys)}
        return aliases

    @torch.no_grad()
    def _dilate(self, output_stride: int, first_block_dilation: str) -> None:
        with torch.device("meta"):
            dilated = _build_dilated(self.name, output_stride)
        modules, dilation = chain(self.name, dilated)[0], 1
        for stage in (stage for stage in self.stages if stage.stride > output_stride):
            dilation *= 2
            old, new = self.get_submodule(stage.name), nn.Sequential()
            for name, _ in old.named_children():
                new.add_module(name, modules[name])
            new.load_state_dict(old.state_dict(), assign=True)
            for name, buffer in new.named_buffers():
                if buffer.is_meta:  # not part of the state dict
                    path, _, leaf = name.rpartition(".")
                    setattr(new.get_submodule(path), leaf, old.get_buffer(name))
            if first_block_dilation == "full":
                _dilate_convs_(new, dilation)
            setattr(self, stage.name, new.train(old.training))

    def _layers(self, output: str) -> list[nn.Module]:
        if output not in ("c3_1", "c3"):
            stage = self.get_submodule(output)
            return blocks(stage)[0] if self.checkpoint and len(stage) else super()._layers(output)  # type: ignore[arg-type]
        layers, _ = blocks(self.c3)
        return layers[: self._inner] if output == "c3_1" else layers[self._inner :]

    def _halve(self, side: int) -> int:
        return side // 2 if self.rounds_down else super()._halve(side)


def _build_dilated(arch: str, output_stride: int) -> nn.Module:
    """Build a dilated encoder, and require that it has the output stride."""
    try:
        net = build_features(arch, output_stride=output_stride)
    except ConfigError as error:
        raise dilation_error(arch, output_stride) from error
    with torch.no_grad(), ShapesOnly():
        features = net.eval()(torch.empty(1, 3, 64, 64))
    if features[-1].shape[-1] != 64 // output_stride:
        raise dilation_error(arch, output_stride)
    return net


def _dilate_convs_(stage: nn.Module, dilation: int) -> None:
    """Give the dilation of a stage to its first block too.

    Timm gives it that of the stage before. Even kernels, such as those between ConvNeXt's stages, stay as they are.
    """
    for conv in stage.modules():
        if isinstance(conv, nn.Conv2d) and all(side % 2 for side in conv.kernel_size):
            conv.dilation = tuple(dilation if side > 1 else 1 for side in conv.kernel_size)
            if any(conv.padding):  # otherwise 1x1, or one that computes its padding in every forward pass
                conv.padding = tuple(dilation * (side // 2) for side in conv.kernel_size)


def _on_byte_scale(mean: Sequence[float], std: Sequence[float]) -> Normalization:
    return Normalization(*(tuple(round(255 * value, 3) for value in values) for values in (mean, std)))  # type: ignore[arg-type]
