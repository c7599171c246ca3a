"""How much each layer's channels matter: the loss with some of them gone, layer by layer, and shares that make it fair.

Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710, sec. 3.2 and fig. 2b.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from segzoo.pruning.dependency_graph import ChannelGraph
from segzoo.pruning.selection import groups_of
from segzoo.pruning.surgery import channels_masked

RATIOS = (0.75, 0.5, 0.25)
STEPS = 40  # of the search for one rise of the loss; each halves the interval


@dataclass(frozen=True)
class SensitivityCurve:
    """What one block of channels does to the loss.

    Attributes:
        place: of the block in ``Channels.blocks``.
        layers: names of the convolutions that make its channels.
        channels: how many it has.
        losses: share of them that stays -> mean loss; 1 stands for the whole network.
    """

    group: int
    layers: tuple[str, ...]
    channels: int
    losses: dict[float, float]

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> SensitivityCurve:
        """The curve whose ``dataclasses.asdict`` was stored as JSON."""
        losses = {float(share): loss for share, loss in found["losses"].items()}
        return cls(found["group"], tuple(found["layers"]), found["channels"], losses)

    def ratio(self, rise: float) -> float:
        """The smallest share with which the loss rises no more than that, on straight lines between those that were tried."""
        shares = sorted(self.losses, reverse=True)
        for more, less in zip(shares, shares[1:], strict=False):
            here, there = (self.losses[share] - self.losses[1.0] for share in (more, less))
            if there > rise:
                return more + (less - more) * max(0.0, rise - here) / (there - here) if there > here else more
        return shares[-1]


def scan_sensitivity(
    model: nn.Module, channels: ChannelGraph, worth: Mapping[int, float], loss: Callable[[], float], exclude: Collection[str] = ()
) -> list[SensitivityCurve]:
    """The curve of every block: its channels of least worth are masked, at each of the shares, and nothing else.

    Args:
        model: left as it was.
        channels: of the model.
        worth: of each channel.
        loss: of the model as it is when called.
        exclude: beginnings of names of layers that are not looked at.
    """
    whole, curves = loss(), []
    for place, block in groups_of(channels, exclude):
        layers = tuple(slot.name.removesuffix(".weight") for slot in channels.filters(block))
        ranked, losses = sorted(block, key=lambda channel: worth[channel], reverse=True), {1.0: whole}
        for share in RATIOS:
            with channels_masked(model, channels, ranked[max(1, round(share * len(block))) :]):
                losses[share] = loss()
        curves.append(SensitivityCurve(place, layers, len(block), losses))
    return curves


def equal_loss_ratios(curves: Sequence[SensitivityCurve], keep: float) -> dict[int, float]:
    """The share that stays of each block, by its place, where all blocks may raise the loss alike and ``keep`` of all channels stay.

    Below the smallest share that was tried every block keeps the same. Where many blocks do nothing to the loss, shares jump at one
    rise; each then goes the same part of its jump.
    """
    if not curves or keep <= min(RATIOS):
        return {curve.group: keep for curve in curves}

    def stay(rise: float) -> float:
        return sum(curve.ratio(rise) * curve.channels for curve in curves) / sum(curve.channels for curve in curves)

    rises = [loss - curve.losses[1.0] for curve in curves for loss in curve.losses.values()]
    low, high = min(rises) - 1, max(rises)  # nothing goes; all that may go
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if stay(middle) > keep else (low, middle)
    jump = stay(low) - stay(high)
    part = (keep - stay(high)) / jump if jump else 0.0
    return {curve.group: curve.ratio(high) + part * (curve.ratio(low) - curve.ratio(high)) for curve in curves}
