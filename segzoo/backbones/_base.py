"""What every backbone shares: five stages, running any stretch of them, and trading stride for dilation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, Self

from torch import Tensor, nn

from segzoo.types import Stage

POINTS = ("c1", "c2", "c3_1", "c3", "c4", "c5")  # where a run may end; each names the map found there
STARTS = ("c1", "c2", "c3", "after_c3_1", "c4", "c5")  # where a run may begin: STARTS[i] is the layer after POINTS[i - 1]


class Backbone(nn.Module, ABC):
    """Five stages ``c1`` to ``c5`` of strides 2, 4, 8, 16 and 32, with the inner point ``c3_1``.

    Args:
        name: the registered name, for messages.
        layers: the five stages in order.
        channels: output channels of each stage.
        inner: how many modules of c3 lie up to the inner point ``c3_1``.

    Attributes:
        stages: name, channels and stride before dilation of each stage.
        channels: channels by name, ``c3_1`` included.
        output_stride: the stride of c5 as it stands: 32, or what ``set_output_stride_`` made of it.
        classifier: the fully connected layers of the weights that were loaded, for heads that go on from them; mostly empty.
        trains_from_scratch: whether random weights lead anywhere within a usual training.
        frozen: the stages that training leaves alone.
    """

    classifier: Mapping[str, Tensor] = MappingProxyType({})
    trains_from_scratch = True
    frozen: tuple[str, ...] = ()

    def __init__(self, name: str, layers: Sequence[nn.Sequential], channels: Sequence[int], *, inner: int):
        super().__init__()
        self.name = name
        self.c1, self.c2, self.c3, self.c4, self.c5 = layers
        self.stages = tuple(Stage(f"c{i}", wide, 2**i) for i, wide in enumerate(channels, 1))
        self.channels = {stage.name: stage.channels for stage in self.stages} | {"c3_1": channels[2]}
        self.output_stride = 32
        self._inner = inner

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """All maps of an image, as ``run`` gives them."""
        return self.forward_stages(x)

    def forward_stages(self, x: Tensor, first: str = "c1", last: str = "c5") -> dict[str, Tensor]:
        """Runs the stages from ``first`` to ``last`` and returns every map passed on the way.

        Args:
            x: what ``first`` takes: the image for ``c1``, else the map of the stage before.
            first: ``c1`` to ``c5``, or ``after_c3_1`` to go on from the inner point.
            last: ``c1`` to ``c5``, or ``c3_1`` to end at the inner point.

        Returns:
            Maps by name, in order, the last one being ``last``; ``c1`` is (N, C, H/2, W/2), ``c5`` (N, C, H/32, W/32) before
            dilation, sizes rounded as the family's strided layers round them.

        Raises:
            ValueError: for a name that is none of these or a stretch that ends before it begins; and in training, when a
                stage would leave a map of one pixel, over which batch norm has nothing to average.
        """
        begin, end = _position("first", first, STARTS), _position("last", last, POINTS)
        if begin > end:
            raise ValueError(f"run(first={first!r}, last={last!r}) ends before it begins: first must not lie after last")
        given, maps = x.shape, {}
        for index in range(begin, end + 1):
            if self.training:
                self._refuse_one_pixel(index, x.shape, begin, given)
            for layer in self._layers(POINTS[index]):
                x = layer(x)
            maps[POINTS[index]] = x
        return maps

    def set_output_stride_(self, output_stride: int, first_block_dilation: Literal["full", "half"] = "full") -> Self:
        """Replaces strides by dilation, in place, until c5 has ``output_stride``; parameters stay what they are.

        Args:
            output_stride: 8, 16, or 32, which changes nothing.
            first_block_dilation: dilation of the first block of a stage that lost its stride: the stage's own (``full``: 2 in c4,
                4 in c5) or that of the stage before (``half``: 1 in c4, 2 in c5).

        Returns:
            The backbone itself.

        Raises:
            ValueError: for other values, or when the backbone is dilated already.
        """
        if output_stride not in (8, 16, 32):
            raise ValueError(f"set_output_stride_(output_stride={output_stride!r}): wanted 8, 16 or 32")
        if first_block_dilation not in ("full", "half"):
            raise ValueError(f"set_output_stride_(first_block_dilation={first_block_dilation!r}): wanted 'full' or 'half'")
        if self.output_stride != 32:
            raise ValueError(f"{self.name} already has output stride {self.output_stride}; dilate a freshly built one")
        dilation = 1
        for stage in self.stages:
            if stage.stride > output_stride:
                dilation = self._stride_to_dilation(stage.name, dilation, first_block_dilation)
        self.output_stride = output_stride
        return self

    def freeze_(self, stages: Collection[str]) -> Self:
        """Keeps stages as they are, in place: their parameters have no gradient, their norms keep and use their statistics.

        Args:
            stages: names among ``c1`` to ``c5``.
        """
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
    def imagenet(self) -> tuple[str, str]:
        """Torchvision's ImageNet weights that fit, as ``<Enum>.<ENTRY>``, and what differs from them, in words or empty.

        Raises:
            ConfigError: if none can fit.
        """

    @abstractmethod
    def key_aliases(self, keys: Collection[str]) -> dict[str, str]:
        """Prefixes of parameter names in files of others -> the same layer's prefix here, for a file holding ``keys``."""

    def external_names(self, layout: str) -> dict[str, str]:
        """What another project calls the layers inside a whole model, ours -> theirs; empty if it has no such backbone."""
        return {}

    def store_classifier(self, state: Mapping[str, Tensor]) -> None:
        """Keeps what heads may want of loaded weights beyond the backbone; here: nothing."""

    @abstractmethod
    def _stride_to_dilation(self, stage: str, dilation: int, first_block_dilation: str) -> int:
        """Takes the stride out of ``stage``, which is reached at ``dilation``; returns the dilation it leaves behind."""

    def _layers(self, point: str) -> list[nn.Module]:
        layers = list(self.get_submodule(point[:2]).children())
        if point == "c3_1":
            return layers[: self._inner]
        return layers[self._inner :] if point == "c3" else layers

    def _halve_feature(self, side: int) -> int:
        return (side + 1) // 2  # windows of 3x3 s2 p1 and 7x7 s2 p3

    def _stride(self, index: int) -> int:
        return 1 if index < 0 else min(2 ** int(POINTS[index][1]), self.output_stride)  # of the map at POINTS[index]

    def _refuse_one_pixel(self, index: int, shape: Sequence[int], begin: int, given: Sequence[int]) -> None:
        halves = self._stride(index) > self._stride(index - 1)
        sides = [self._halve_feature(side) if halves else side for side in shape[-2:]]
        if math.prod(sides) != 1:
            return
        least = 2 * self._stride(index) // self._stride(begin - 1)
        came = "x".join(str(side) for side in given[-2:])
        raise ValueError(
            f"{self.name} in training: the map {POINTS[index]} would have one pixel, because run(first={STARTS[begin]!r}) was "
            f"given {came} (batch {given[0]}). Batch norm needs more: give {least} or more pixels on one side, or call eval()."
        )


def init_weights(module: nn.Module) -> None:
    """Sets convolutions to He et al.'s normal (fan-out, arXiv:1502.01852), biases to 0 and batch norms to the identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def _position(word: str, name: str, legal: Sequence[str]) -> int:
    if name not in legal:
        raise ValueError(f"run({word}={name!r}): no such point. Valid for {word}: {', '.join(legal)}.")
    return legal.index(name)
