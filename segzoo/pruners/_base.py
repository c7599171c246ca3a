"""When a network loses channels, and which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from segzoo.pruners.channels import Channels, Slot, channels_of
from segzoo.pruners.cut import cut_, without
from segzoo.pruners.rank import dropped, worths
from segzoo.registry import ConfigError, Range

Share = Annotated[float, Range(0, 1, above=True)]
Start = Annotated[float, Range(0, 1)]
Multiple = Annotated[int, Range(1, None)]
How = Literal["uniform", "global"]
Gradients = Mapping[str, Tensor]  # by the parameter's name; empty where none are known
Values = Callable[[Slot], Tensor]  # of each filter of a layer
Resize = Callable[[str, Tensor], Tensor]  # a parameter's name, and anything of its shape -> the same without what was removed


@dataclass(frozen=True)
class Pruner:
    """Removes the channels of least worth, in one or several stages of a training.

    Attributes:
        worth: gives, for a network, its channels and its gradients, the worth of each filter of a layer.
        shares: of the channels there were at first, those that stay after each stage.
        start: share of the training after which the first stage comes; the others follow evenly until its end.
        how, multiple, exclude: as ``rank.dropped`` takes them.
        sparsity: weight of the sum of the norms' absolute scales in the training loss before the last stage; 0 for none.

    Raises:
        ConfigError: the shares do not fall.
    """

    worth: Callable[[nn.Module, Channels, Gradients], Values]
    shares: tuple[float, ...]
    start: float
    how: How
    multiple: int
    exclude: tuple[str, ...]
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        if any(later >= earlier for earlier, later in zip(self.shares, self.shares[1:], strict=False)):
            raise ConfigError(f"pruner.steps={list(self.shares)} must fall: each is a share of the channels there were at first")

    def stages(self, total: int) -> dict[int, tuple[float, float]]:
        """The step before which each stage comes -> the share that stayed until then, and the share that stays from then on."""
        after = [round((self.start + (1 - self.start) * i / len(self.shares)) * total) for i in range(len(self.shares))]
        return dict(zip(after, zip((1.0, *self.shares), self.shares, strict=False), strict=True))

    def prune_(self, model: nn.Module, before: float, after: float, gradients: Gradients) -> Resize:
        """Removes channels in place until the share ``after`` is left of what ``before`` is a share of.

        Returns:
            What takes the same channels out of anything shaped like a parameter, such as the optimiser's moments.
        """
        channels = channels_of(model)
        worth = worths(channels, self.worth(model, channels, gradients))
        gone = dropped(channels, worth, after / before, how=self.how, multiple=self.multiple, exclude=self.exclude)
        cut_(model, channels, gone)
        return lambda name, tensor: without(name, tensor, channels, gone)

    def press_(self, model: nn.Module, step: int, total: int) -> None:
        """Adds the gradient of the sparsity term to the norms' scales, before the last stage."""
        if not self.sparsity or step > max(self.stages(total)):
            return
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.weight.grad is not None:
                layer.weight.grad.add_(layer.weight.detach().sign(), alpha=self.sparsity)


def filters(weight: Tensor, slot: Slot) -> Tensor:
    """A convolution's weight as (filters, everything else)."""
    return torch.movedim(weight.detach(), slot.dim, 0).flatten(1)
