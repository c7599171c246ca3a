"""When a network loses channels, how many, and which."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from segzoo.pruning.dependency_graph import ChannelGraph, ParamDim, model_outputs, trace_channels
from segzoo.pruning.selection import channel_importance, groups_of, select_channels
from segzoo.pruning.sensitivity import RATIOS, SensitivityCurve, equal_loss_ratios, scan_sensitivity
from segzoo.pruning.surgery import drop_channels, remove_channels_
from segzoo.registry import ConfigError

Allocation = Literal["uniform", "global", "sensitivity"]
Values = Callable[[ParamDim], Tensor]  # of each filter of a layer
Rank = Callable[[nn.Module, ChannelGraph, "CalibrationData"], Values]
BroadcastFn = Callable[[Callable[[], set[int]]], set[int]]
SparsityTerms = tuple[nn.Parameter, Tensor]  # a norm's scales, and the weight of each in the sparsity term
Resize = Callable[[str, Tensor], Tensor]  # a parameter's name, and anything of its shape -> the same without what was removed


class NoCalibration:
    """The evidence of no image, where only what does not depend on images is asked."""

    def loss(self) -> float:
        return 0.0

    def gradients(self) -> Iterator[Mapping[str, Tensor]]:
        return iter(())


class CalibrationData(Protocol):
    """What a network does on a few images, as it is when asked; see ``segzoo.training.calibration``."""

    def loss(self) -> float:
        """Its mean loss."""
        ...

    def gradients(self) -> Iterator[Mapping[str, Tensor]]:
        """The loss's gradient by the parameter's name, batch by batch."""
        ...


@dataclass(frozen=True)
class Target:
    """A size or a time that the pruned network shall not exceed.

    Attributes:
        kind: ``ms``, ``gmacs`` or ``params``.
        value: milliseconds an image from bytes to labels, 10^9 multiply-adds, or parameters.
        hw, runtime, precision: of the image and the network that are timed or counted.
    """

    kind: str
    value: float
    hw: tuple[int, int]
    runtime: str
    precision: str


@dataclass(frozen=True)
class Ranking:
    """What a network's channels are worth, from which any share of them can be dropped.

    Attributes:
        channels: of the network.
        worth: of each channel.
        curves: what each block does to the loss, where the shares go by that; else none.
    """

    channels: ChannelGraph
    importance: Mapping[int, float]
    curves: Sequence[SensitivityCurve]
    pruner: Pruner

    def select(self, keep: float, first: Mapping[str, int] | None = None) -> set[int]:
        """The channels of least worth.

        Args:
            keep: share of the channels that stays.
            first: output channels that each convolution had at first, by name, of which that is a share; None: as they are now.
        """
        how, kept, words = self.pruner.allocation, None, {"multiple": self.pruner.round_to, "exclude": self.pruner.exclude}
        grown = {place: self._by_layer(block, first) for place, block in enumerate(self.channels.groups)} if first else None
        if how == "sensitivity":
            places = {curve.group: curve.channels for curve in self.curves}
            more = sum(grown[place] for place in places) / sum(places.values()) if grown else 1.0
            how, kept = "uniform", equal_loss_ratios(self.curves, min(1.0, keep * more))
        return select_channels(self.channels, self.importance, keep, how=how, kept=kept, grown=grown, **words)

    def _by_layer(self, block: Sequence[int], first: Mapping[str, int]) -> float:
        slot = self.channels.filters(block)[0]
        return len(block) * first[slot.name.removesuffix(".weight")] / len(self.channels.dims[slot])


@dataclass(frozen=True)
class Pruner:
    """Removes the channels of least worth, in one or several stages of a training.

    Attributes:
        worth: gives, for a network, its channels and what it does on images, the worth of each filter of a layer.
        shares: of the channels there were at first, those that stay after each stage.
        start: share of the training after which the first stage comes; the others follow evenly until its end.
        how, multiple, exclude: as ``rank.dropped`` takes them; with ``scan`` each block loses what raises the loss alike.
        sparsity: weight of the sum of the norms' absolute scales in the training loss before the last stage; 0 for none.
        target: what the last share is to be searched for, by ``segzoo.workflows.prune.target_search``; None where it is given.
        chosen: the channels that the first stage removes, where that has been settled already; None leaves it to that moment.
    """

    importance: Rank
    keep_ratios: tuple[float, ...]
    start: float
    allocation: Allocation
    round_to: int
    exclude: tuple[str, ...]
    sparsity: float = 0.0
    target: Target | None = None
    chosen: frozenset[int] | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError where a scan would do what ``uniform`` does: below the least share that it looks at."""
        falls = [later / earlier for earlier, later in zip((1.0, *self.keep_ratios), self.keep_ratios, strict=False)]
        if self.allocation == "sensitivity" and self.target is None and min(falls) <= min(RATIOS):
            raise ConfigError(
                f"pruner.allocation=sensitivity looks at layers with {', '.join(f'{share:.0%}' for share in RATIOS)} of their channels, so at "
                f"{min(falls):.0%} all would keep alike. Say pruner.allocation=uniform, keep more, or come there in pruner.keep_schedule such as [0.5,0.2]."
            )

    def stages(self, total: int) -> list[tuple[int, float]]:
        """The step before which each stage comes, and the share that stays from then on.

        Raises:
            ConfigError: a training of that many steps is too short for them.
        """
        after = [round((self.start + (1 - self.start) * i / len(self.keep_ratios)) * total) for i in range(len(self.keep_ratios))]
        if len({*after, total}) <= len(after):
            raise ConfigError(
                f"{total} steps are too short for {len(after)} stages of pruning from pruner.start={self.start:g} on, each with a step "
                "behind it: make steps larger, or take fewer stages"
            )
        return list(zip(after, self.keep_ratios, strict=True))

    def check(self, model: nn.Module) -> None:
        """Raises ConfigError if this network, on any device, cannot be pruned so. A copy on the meta device is cut and run."""
        channels = self.channels(model)
        names = [slot.name.removesuffix(".weight") for slot in channels.producers]
        for word in self.exclude:
            if not any(name.startswith(word) for name in names):
                near = difflib.get_close_matches(word, {".".join(n.split(".")[:i]) for n in names for i in (1, 2, 3)}, 3, 0.4)
                raise ConfigError(
                    f"pruner.exclude={word} is the beginning of no layer's name. Near: {', '.join(near) or names[0]}."
                )
        values = self.importance(model, channels, NoCalibration())
        for _, block in groups_of(channels, self.exclude):
            for slot in channels.filters(block):
                values(slot)
        self._try(model, channels)

    def channels(self, model: nn.Module) -> ChannelGraph:
        """The channels of a network, of which those that what is excluded makes stay.

        Raises:
            ConfigError: they cannot be followed, or all of them stay.
        """
        try:
            channels = trace_channels(model, exclude=self.exclude)
        except NotImplementedError as error:
            raise ConfigError(f"pruner: {str(error).splitlines()[0]}") from error
        if not channels.groups:
            raise ConfigError("pruner: every channel of this network has to stay. Exclude fewer layers, or say pruner=none.")
        return channels

    def _try(self, model: nn.Module, channels: ChannelGraph) -> None:
        blank = copy.deepcopy(model).to("meta")
        alike = {channel: 0.0 for block in channels.groups for channel in block}
        remove_channels_(blank, channels, select_channels(channels, alike, self.keep_ratios[-1], multiple=self.round_to))
        try:
            model_outputs(blank)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(
                f"pruner: without some of its channels this network does not run: {str(error).splitlines()[0]}. Its code holds numbers "
                "of channels: take them from the maps, or pruner.exclude the layers that make these."
            ) from error

    def ranking(self, model: nn.Module, evidence: CalibrationData) -> Ranking:
        """What the channels of a network are worth."""
        channels = self.channels(model)
        worth = channel_importance(channels, self.importance(model, channels, evidence), self.exclude)
        curves = scan_sensitivity(model, channels, worth, evidence.loss, self.exclude) if self.allocation == "sensitivity" else ()
        return Ranking(channels, worth, curves, self)

    def prune_(
        self,
        model: nn.Module,
        keep: float,
        evidence: CalibrationData,
        first: Mapping[str, int] | None = None,
        agreed: BroadcastFn = lambda choose: choose(),
    ) -> Resize:
        """Removes channels in place.

        Args:
            model: loses them.
            keep: share that stays.
            evidence: of the model.
            first: output channels that each convolution had at first, by name, of which that is a share; None: as they are now.
            agreed: gives several processes one and the same answer.

        Returns:
            What takes the same channels out of anything shaped like a parameter, such as the optimizer's moments.
        """
        channels = self.channels(model)
        known = self.chosen if keep == self.keep_ratios[0] else None
        gone = agreed(lambda: set(known) if known is not None else self.ranking(model, evidence).select(keep, first))
        remove_channels_(model, channels, gone)
        return lambda name, tensor: drop_channels(name, tensor, channels, gone)

    def sparsity_terms(self, model: nn.Module) -> list[SparsityTerms]:
        """The scales of norms that the sparsity term is about, those of channels that may go; none without sparsity."""
        if not self.sparsity:
            return []
        channels = self.channels(model)
        mine = {channel for _, block in groups_of(channels, self.exclude) for channel in block}
        found = []
        for name, layer in model.named_modules():
            if isinstance(layer, _BatchNorm) and (held := channels.dims.get(ParamDim(f"{name}.weight", 0))):
                found.append((layer.weight, layer.weight.new_tensor([self.sparsity * (channel in mine) for channel in held])))
        return found


def filters(weight: Tensor, slot: ParamDim) -> Tensor:
    """A convolution's weight as (filters, everything else)."""
    return torch.movedim(weight.detach(), slot.dim, 0).flatten(1)
