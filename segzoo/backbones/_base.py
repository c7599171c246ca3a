"""Base class of the backbones: five stages, partial runs, and dilation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Self

import torch
from torch import Tensor, nn

from segzoo.backbones._recompute import run_checkpointed
from segzoo.registry import ConfigError
from segzoo.types import Stage

# feature maps that a run may return, in order, with their strides before dilation
STRIDES = {"c1": 2, "c2": 4, "c3_1": 8, "c3": 8, "c4": 16, "c5": 32}
OUTPUTS = tuple(STRIDES)
INPUTS = ("c1", "c2", "c3", "after_c3_1", "c4", "c5")  # where a run may begin; INPUTS[i] follows OUTPUTS[i - 1]


class FeatureWidths(dict[str, int]):
    """Channels of a backbone's feature maps by name.

    Reading one that the backbone does not have raises ConfigError.
    """

    def __init__(self, backbone: str, widths: Mapping[str, int]):
        super().__init__(widths)
        self.backbone = backbone

    def __missing__(self, name: str) -> int:
        reason = ", because its c3 cannot be divided after a first block" if name == "c3_1" else ""
        raise ConfigError(
            f"this model reads the feature map {name}, which {self.backbone} does not have{reason}. It has {', '.join(self)}. Choose "
            "another backbone, or a model without that feature map."
        )


class Backbone(nn.Module, ABC):
    """Five stages ``c1`` to ``c5``.

    Their strides are 2, 4, 8, 16 and 32. The inner point ``c3_1`` divides c3, for networks that leave or enter the backbone there.

    Args:
        name: the registered name, for messages.
        layers: the five stages in order. One without a feature map is empty, and the next begins with its stride.
        channels: output channels of each stage, 0 for one without a feature map. c3, c4 and c5 have one.
        inner: number of modules of c3 up to the inner point ``c3_1``, 0 if there is none.

    Attributes:
        stages: name, channels and stride before dilation of each stage with a feature map.
        channels: channels by name, ``c3_1`` included.
        output_stride: current stride of c5: 32, or the one set by ``set_output_stride_``.
        classifier: fully connected layers of the loaded weights, for heads that start from them. Usually empty.
        trains_from_scratch: whether training from random weights works within a usual schedule.
        frozen: the stages that are not trained.
        checkpoint: whether the backward pass recomputes activations instead of keeping them.
    """

    classifier: Mapping[str, Tensor] = MappingProxyType({})
    trains_from_scratch = True
    frozen: tuple[str, ...] = ()
    checkpoint = False

    def __init__(self, name: str, layers: Sequence[nn.Sequential], channels: Sequence[int], *, inner: int):
        super().__init__()
        self.name = name
        self.c1, self.c2, self.c3, self.c4, self.c5 = layers
        self.stages = tuple(Stage(f"c{i}", width, 2**i) for i, width in enumerate(channels, 1) if width)
        widths = {stage.name: stage.channels for stage in self.stages}
        self.channels = FeatureWidths(name, widths | ({"c3_1": channels[2]} if inner else {}))
        self.output_stride = 32
        self._inner = inner

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """All feature maps of an image, as ``forward_stages`` returns them."""
        return self.forward_stages(x)

    def forward_stages(self, x: Tensor, first: str = "c1", last: str = "c5") -> dict[str, Tensor]:
        """Run the stages from ``first`` to ``last`` and return every feature map.

        Args:
            x: the input of ``first``: the image for ``c1``, otherwise the feature map of the stage before.
            first: ``c1`` to ``c5``, or ``after_c3_1`` to continue from the inner point.
            last: ``c1`` to ``c5``, or ``c3_1`` to stop at the inner point.

        Returns:
            Feature maps by name, in order, ending with ``last``. ``c1`` is (N, C, H/2, W/2) and ``c5`` (N, C, H/32, W/32) before
            dilation, with sizes rounded as the family's strided layers round them.

        Raises:
            ValueError: for an unknown name, or when ``first`` comes after ``last``. In training also when a stage would return a
                feature map of one pixel, over which batch norm, there or in a head, cannot average.
        """
        begin, end = _index("first", first, INPUTS), _index("last", last, OUTPUTS)
        if begin > end:
            raise ValueError(
                f"forward_stages(first={first!r}, last={last!r}) ends before it begins: first must not come after last"
            )
        size, features = x.shape, {}
        for index in range(begin, end + 1):
            if self.training:
                self._check_not_one_pixel(index, x.shape, begin, size)
            x = self._run(self._layers(OUTPUTS[index]), x)
            if OUTPUTS[index] in self.channels:
                features[OUTPUTS[index]] = x
        return features

    def set_output_stride_(self, output_stride: int, first_block_dilation: Literal["full", "half"] = "full") -> Self:
        """Replace strides by dilation until c5 has ``output_stride``.

        The backbone changes in place, and its parameters keep their values.

        Args:
            output_stride: 8, 16, or 32, which changes nothing.
            first_block_dilation: dilation of the first block of a stage that lost its stride: that of its own stage (``full``: 2 in
                c4, 4 in c5) or of the stage before (``half``: 1 in c4, 2 in c5).

        Returns:
            The backbone itself.

        Raises:
            ValueError: for other values, or when the backbone is already dilated.
        """
        if output_stride not in (8, 16, 32):
            raise ValueError(f"set_output_stride_(output_stride={output_stride!r}): expected 8, 16 or 32")
        if first_block_dilation not in ("full", "half"):
            raise ValueError(f"set_output_stride_(first_block_dilation={first_block_dilation!r}): expected 'full' or 'half'")
        if self.output_stride != 32:
            raise ValueError(f"{self.name} already has output stride {self.output_stride}: dilate a newly built backbone")
        if output_stride < 32:
            self._dilate(output_stride, first_block_dilation)
        self.output_stride = output_stride
        return self

    def freeze_(self, stages: Collection[str]) -> Self:
        """Freeze stages in place.

        Their parameters have no gradient, and their batch norm layers use their running statistics without updating them.

        Args:
            stages: names among ``c1`` to ``c5``.

        Raises:
            ConfigError: a stage has no weights, and the next that has some is not among them.
        """
        with_weights = [name for name in ("c1", "c2", "c3", "c4", "c5") if [*self.get_submodule(name).parameters()]]
        for name in stages:
            holder = next(stage for stage in with_weights if stage >= name)
            if holder not in stages:
                problem = f"{name} of {self.name} has no weights, and the first ones after it are in {holder}"
                raise ConfigError(f"init.freeze: {problem}. Set 'init.freeze=[{holder}]'.")
        for name in stages:
            self.get_submodule(name).requires_grad_(False)
        self.frozen = tuple(dict.fromkeys((*self.frozen, *stages)))
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode for every stage that is not frozen."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self

    @abstractmethod
    def imagenet(self, *, narrowed: bool = False) -> tuple[str, str]:
        """Torchvision's ImageNet weights for this backbone.

        Args:
            narrowed: whether they are narrowed to this backbone's width.

        Returns:
            The weights as ``<Enum>.<ENTRY>``, and a note on how their network differs from this one, or an empty string.

        Raises:
            ConfigError: no weights fit.
        """

    @abstractmethod
    def key_aliases(self, keys: Collection[str]) -> dict[str, str]:
        """Map external parameter-name prefixes to local ones, for a file with ``keys``."""

    def external_names(self, layout: str) -> dict[str, str]:
        """Names of the layers in another project's whole model.

        Returns:
            Local to external names, empty if the project has no such backbone.
        """
        return {}

    def store_classifier(self, state: Mapping[str, Tensor]) -> None:
        """Store loaded tensors that a head may use.

        By default nothing is stored.
        """

    @abstractmethod
    def _dilate(self, output_stride: int, first_block_dilation: str) -> None:
        """Dilate the stages whose stride is above ``output_stride``, 8 or 16.

        The first to lose its stride has dilation 2, the next 4.
        """

    def _layers(self, output: str) -> list[nn.Module]:
        """The modules between the previous output and ``output``."""
        if output == "c3_1":
            return list(self.c3.children())[: self._inner]
        layers = list(self.get_submodule(output).children())
        return layers[self._inner :] if output == "c3" else layers

    def _run(self, layers: Sequence[nn.Module], x: Tensor) -> Tensor:
        if self.checkpoint and self.training and torch.is_grad_enabled():
            return run_checkpointed(layers, x)
        for layer in layers:
            x = layer(x)
        return x

    def _halve(self, side: int) -> int:
        """The output size of a strided layer of this family."""
        return (side + 1) // 2  # kernels 3x3 with padding 1 and 7x7 with padding 3

    def _stride(self, index: int) -> int:
        """The current stride of OUTPUTS[index], or 1 before the first."""
        return 1 if index < 0 else min(STRIDES[OUTPUTS[index]], self.output_stride)

    def _check_not_one_pixel(self, index: int, shape: Sequence[int], begin: int, size: Sequence[int]) -> None:
        halves = self._stride(index) > self._stride(index - 1)
        sides = [self._halve(side) if halves else side for side in shape[-2:]]
        if math.prod(sides) != 1:
            return
        minimum = 2 * self._stride(index) // self._stride(begin - 1)
        received = "x".join(str(side) for side in size[-2:])
        raise ValueError(
            f"{self.name} in training: feature map {OUTPUTS[index]} would have one pixel, because "
            f"forward_stages(first={INPUTS[begin]!r}) received {received} (batch {size[0]}). Training needs more: enlarge the input "
            f"to {minimum} or more pixels on one side, or call eval()."
        )


def init_weights(module: nn.Module) -> None:
    """Initialize convolutions and batch norm layers.

    Convolutions follow He et al.'s normal distribution (fan-out, arXiv:1502.01852) with zero biases. Batch norm is the identity.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def _index(argument: str, name: str, valid: Sequence[str]) -> int:
    if name not in valid:
        raise ValueError(f"forward_stages({argument}={name!r}): unknown name. Valid for {argument}: {', '.join(valid)}.")
    return valid.index(name)
