"""Sensitivity of the loss to the channels of each layer.

Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710, sec. 3.2 and fig. 2b.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from segzoo.progress import with_progress
from segzoo.pruning.dependency_graph import ChannelGraph
from segzoo.pruning.selection import prunable_groups
from segzoo.pruning.surgery import channels_masked
from segzoo.types import PlainMapping

RATIOS = (0.75, 0.5, 0.25)
BISECTION_STEPS = 40  # each halves the interval that contains the common rise of the loss


@dataclass(frozen=True)
class SensitivityCurve:
    """Loss as a function of the channels kept of one group.

    Attributes:
        group: index of the group in ``ChannelGraph.groups``.
        layers: names of the convolutions that produce its channels.
        channels: size of the group.
        losses: fraction of its channels kept -> mean loss; 1 is the unpruned model.
    """

    group: int
    layers: tuple[str, ...]
    channels: int
    losses: dict[float, float]

    @classmethod
    def from_dict(cls, plain: PlainMapping) -> SensitivityCurve:
        """Rebuild a curve from its ``dataclasses.asdict``, stored as JSON."""
        losses = {float(ratio): loss for ratio, loss in plain["losses"].items()}
        return cls(plain["group"], tuple(plain["layers"]), plain["channels"], losses)

    def ratio(self, max_rise: float) -> float:
        """The smallest ratio at which the loss rises by at most ``max_rise``.

        The curve is linear between the measured ratios and ends at the smallest of them.
        """
        ratios = sorted(self.losses, reverse=True)
        for upper, lower in zip(ratios, ratios[1:], strict=False):
            rise_upper, rise_lower = (self.losses[ratio] - self.losses[1.0] for ratio in (upper, lower))
            if rise_lower > max_rise:
                if rise_lower <= rise_upper:
                    return upper
                return upper + (lower - upper) * max(0.0, max_rise - rise_upper) / (rise_lower - rise_upper)
        return ratios[-1]


def scan_sensitivity(
    model: nn.Module,
    graph: ChannelGraph,
    importance: Mapping[int, float],
    loss: Callable[[], float],
    exclude: Collection[str] = (),
) -> list[SensitivityCurve]:
    """Measure the loss with the least important channels of one group masked.

    Every group is masked by itself, at each of ``RATIOS``.

    Args:
        model: the model; it is restored afterwards.
        graph: its channels.
        importance: of each channel.
        loss: returns the loss of the model in its current state.
        exclude: prefixes of the names of layers to leave out.
    """
    full_loss, curves = loss(), []
    groups = list(prunable_groups(graph, exclude))
    for index, group in with_progress(groups, len(groups), "layers", "measuring sensitivity"):
        layers = tuple(producer.name.removesuffix(".weight") for producer in graph.producers_of(group))
        ranked, losses = sorted(group, key=lambda channel: importance[channel], reverse=True), {1.0: full_loss}
        for ratio in RATIOS:
            with channels_masked(model, graph, ranked[max(1, round(ratio * len(group))) :]):
                losses[ratio] = loss()
        curves.append(SensitivityCurve(index, layers, len(group), losses))
    return curves


def equal_loss_ratios(curves: Sequence[SensitivityCurve], keep_ratio: float) -> dict[int, float]:
    """Find the keep ratio of each group that raises the loss equally.

    The common rise of the loss is found by bisection. The total of channels kept can be a discontinuous function of it: where the loss does
    not change between two measured ratios, a group jumps from one to the other. If the total would skip ``keep_ratio``, every group is
    interpolated between its ratios below and above the jump, with the same weight. Below the smallest measured ratio all groups
    keep ``keep_ratio``.

    Args:
        curves: of all groups.
        keep_ratio: fraction of the channels of all groups together to keep.

    Returns:
        Fraction of its channels to keep of each group, by index in ``ChannelGraph.groups``.
    """
    if not curves or keep_ratio <= min(RATIOS):
        return {curve.group: keep_ratio for curve in curves}

    def total_ratio(max_rise: float) -> float:
        return sum(curve.ratio(max_rise) * curve.channels for curve in curves) / sum(curve.channels for curve in curves)

    rises = [loss - curve.losses[1.0] for curve in curves for loss in curve.losses.values()]
    low, high = min(rises) - 1, max(rises)  # from all channels kept to all at their smallest ratio
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if total_ratio(middle) > keep_ratio else (low, middle)
    jump = total_ratio(low) - total_ratio(high)
    weight = (keep_ratio - total_ratio(high)) / jump if jump else 0.0
    return {curve.group: curve.ratio(high) + weight * (curve.ratio(low) - curve.ratio(high)) for curve in curves}
