"""Channels of a model ranked by importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from segzoo.pruning.dependency_graph import ChannelGraph
from segzoo.pruning.selection import select_channels
from segzoo.pruning.sensitivity import SensitivityCurve, equal_loss_ratios

Allocation = Literal["uniform", "global", "sensitivity"]


@dataclass(frozen=True)
class Ranking:
    """Importance of every channel of a model.

    Attributes:
        graph: the model's channels.
        importance: of each channel.
        curves: sensitivity of each group of channels; empty unless ``allocation`` is ``sensitivity``.
        allocation, round_to, exclude: see ``select_channels``; ``sensitivity`` lets every group of channels raise the loss alike.
    """

    graph: ChannelGraph
    importance: Mapping[int, float]
    curves: Sequence[SensitivityCurve]
    allocation: Allocation
    round_to: int
    exclude: tuple[str, ...]

    def select(self, keep_ratio: float, initial_widths: Mapping[str, int] | None = None) -> set[int]:
        """Select the channels to remove, the least important ones.

        Args:
            keep_ratio: fraction of the channels to keep.
            initial_widths: output channels of each convolution before any pruning, by name, of which ``keep_ratio`` is a fraction; None
                takes it of the present channels.
        """
        initial_sizes, group_ratios = None, None
        if initial_widths:
            initial_sizes = {index: self._initial_size(group, initial_widths) for index, group in enumerate(self.graph.groups)}
        if self.allocation == "sensitivity":
            group_ratios = equal_loss_ratios(self.curves, self._ratio_of_present(keep_ratio, initial_sizes))
        return select_channels(
            self.graph,
            self.importance,
            keep_ratio,
            allocation="global" if self.allocation == "global" else "uniform",
            round_to=self.round_to,
            exclude=self.exclude,
            group_ratios=group_ratios,
            initial_sizes=initial_sizes,
        )

    def _initial_size(self, group: Sequence[int], initial_widths: Mapping[str, int]) -> float:
        producer = self.graph.producers_of(group)[0]
        return len(group) * initial_widths[producer.name.removesuffix(".weight")] / len(self.graph.dims[producer])

    def _ratio_of_present(self, keep_ratio: float, initial_sizes: Mapping[int, float] | None) -> float:
        """Convert a ratio of initial channels to one of present channels."""
        sizes = {curve.group: curve.channels for curve in self.curves}
        scale = sum(initial_sizes[group] for group in sizes) / sum(sizes.values()) if initial_sizes else 1.0
        return min(1.0, keep_ratio * scale)
