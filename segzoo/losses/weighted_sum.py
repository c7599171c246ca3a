"""Weighted sum of other losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from segzoo.losses._base import ClassWeights, MultiHeadLoss, Resolution, ResolutionSetting, explicit_weights, fp32_or_wider
from segzoo.messages import unknown_name_error
from segzoo.registry import LOSSES, ConfigError, Range
from segzoo.types import IGNORE, Logits, PlainDict

Weight = Annotated[float, Range(0, 1e6, above=True)]


@LOSSES.register
def weighted_sum(
    aux_weights: tuple[float, ...],
    align_corners: bool,
    ignore: int = IGNORE,
    model_resolution: Resolution = "label",
    *,
    weights: dict[str, Weight],
    settings: dict[str, PlainDict] | None = None,
    resolution: ResolutionSetting = "model",
    class_weights: ClassWeights = None,
) -> WeightedSum:
    """Weighted sum of other losses, each with its own divisor.

    Args:
        aux_weights, align_corners, ignore, model_resolution: as for ``cross_entropy``.
        weights: name of each loss -> its weight, above 0.
        settings: name of a loss -> its settings that differ from their defaults.
        resolution, class_weights: of all losses, unless ``settings`` gives one of its own.

    Raises:
        ConfigError: a loss or one of its settings is invalid; lists all errors at once.
    """
    settings = settings or {}
    known = [name for name in LOSSES.names() if name != weighted_sum.__name__]
    errors = [unknown_name_error("loss in loss.weights", name, known) for name in weights if name not in known]
    errors += (
        [] if weights else ["loss.weights is empty: name at least one loss, such as 'loss.weights={cross_entropy: 1, dice: 1}'."]
    )
    errors += [unknown_name_error("loss in loss.settings", name, weights) for name in settings if name not in weights]
    shared = {"resolution": resolution, "class_weights": explicit_weights(class_weights)}
    values = {name: shared | settings.get(name, {}) for name in weights}
    for name in values.keys() & known:
        errors += LOSSES.errors(name, values[name], f"loss.settings.{name}")
    if errors:
        raise ConfigError(errors)
    objects = (aux_weights, align_corners, ignore, model_resolution)
    return WeightedSum(tuple(LOSSES.build(name, *objects, **values[name]) for name in weights), tuple(weights.values()))


@dataclass(frozen=True)
class WeightedSum:
    """Losses with their weights, see :func:`weighted_sum`.

    ``weight`` holds the divisors of all losses, (losses * heads,), those of the first loss first.
    """

    losses: tuple[MultiHeadLoss, ...]
    weights: tuple[float, ...]

    @property
    def resolution(self) -> Resolution:
        """``label`` if no divisor depends on the size of the logits."""
        return "label" if all(loss.resolution == "label" for loss in self.losses) else "logits"

    @property
    def parts(self) -> tuple[tuple[float, MultiHeadLoss], ...]:
        """Each loss with its weight."""
        return tuple(zip(self.weights, self.losses, strict=True))

    def __call__(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss, as ``MultiHeadLoss``."""
        return self.total(self.terms(logits, label, weight))

    def total(self, terms: Tensor) -> Tensor:
        """Sum the losses of all heads (heads,), times their weights."""
        return self.losses[0].total(terms)

    def terms(self, logits: Logits, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """Weighted sum of the losses of each head (heads,), main first."""
        weight = self.weight(label, logits) if weight is None else weight
        logits = Logits(fp32_or_wider(logits.main), tuple(map(fp32_or_wider, logits.aux)))  # once, so that gradients add up in fp32
        parts = zip(self.parts, weight.chunk(len(self.losses)), strict=True)
        return torch.stack([factor * loss.terms(logits, label, divisors) for (factor, loss), divisors in parts]).sum(0)

    def weight(self, label: Tensor, logits: Logits) -> Tensor:
        """Divisors of the losses and heads, (losses * heads,)."""
        return torch.cat([loss.weight(label, logits) for loss in self.losses])
