"""When a network loses channels, how many, and which."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from segzoo.pruners.channels import Channels, Slot, channels_of
from segzoo.pruners.cut import cut_, without
from segzoo.pruners.rank import dropped, worths
from segzoo.pruners.scan import Curve, fair_shares, scan
from segzoo.registry import PRUNERS, ConfigError, Range, settings_of

Share = Annotated[float, Range(0, 1, above=True)]
Wanted = Annotated[float, Range(0, None, above=True)]
Side = Annotated[int, Range(33, 8192)]
How = Literal["uniform", "global", "scan"]
Values = Callable[[Slot], Tensor]  # of each filter of a layer
Rank = Callable[[nn.Module, Channels, "Evidence"], Values]
Agreed = Callable[[Callable[[], set[int]]], set[int]]
Resize = Callable[[str, Tensor], Tensor]  # a parameter's name, and anything of its shape -> the same without what was removed


class Evidence(Protocol):
    """What a network does on a few pictures, as it is when asked; see ``segzoo.engine.evidence``."""

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
        value: milliseconds a picture from bytes to labels, 10^9 multiply-adds, or parameters.
        hw, runtime, precision: of the picture and the network that are timed or counted.
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

    channels: Channels
    worth: Mapping[int, float]
    curves: Sequence[Curve]
    pruner: Pruner

    def dropped(self, keep: float) -> set[int]:
        """The channels of least worth, of which the share ``keep`` stays."""
        how, kept = self.pruner.how, None
        if how == "scan":
            how, kept = "uniform", fair_shares(self.curves, keep)
        words = {"multiple": self.pruner.multiple, "exclude": self.pruner.exclude}
        return dropped(self.channels, self.worth, keep, how=how, kept=kept, **words)


@dataclass(frozen=True)
class Pruner:
    """Removes the channels of least worth, in one or several stages of a training.

    Attributes:
        worth: gives, for a network, its channels and what it does on pictures, the worth of each filter of a layer.
        shares: of the channels there were at first, those that stay after each stage.
        start: share of the training after which the first stage comes; the others follow evenly until its end.
        how, multiple, exclude: as ``rank.dropped`` takes them; with ``scan`` each block loses what raises the loss alike.
        sparsity: weight of the sum of the norms' absolute scales in the training loss before the last stage; 0 for none.
        target: what the last share is to be searched for, by ``segzoo.aim``; None where it is given.
        chosen: the channels that the first stage removes, where that has been settled already; None leaves it to that moment.
    """

    worth: Rank
    shares: tuple[float, ...]
    start: float
    how: How
    multiple: int
    exclude: tuple[str, ...]
    sparsity: float = 0.0
    target: Target | None = None
    chosen: frozenset[int] | None = None

    def stages(self, total: int) -> dict[int, tuple[float, float]]:
        """The step before which each stage comes -> the share that stayed until then, and the share that stays from then on."""
        after = [round((self.start + (1 - self.start) * i / len(self.shares)) * total) for i in range(len(self.shares))]
        return dict(zip(after, zip((1.0, *self.shares), self.shares, strict=False), strict=True))

    def ranking(self, model: nn.Module, evidence: Evidence) -> Ranking:
        """What the channels of a network are worth."""
        channels = channels_of(model)
        worth = worths(channels, self.worth(model, channels, evidence))
        curves = scan(model, channels, worth, evidence.loss, self.exclude) if self.how == "scan" else ()
        return Ranking(channels, worth, curves, self)

    def prune_(
        self, model: nn.Module, before: float, after: float, evidence: Evidence, agreed: Agreed = lambda choose: choose()
    ) -> Resize:
        """Removes channels in place until the share ``after`` is left of what ``before`` is a share of.

        Args:
            model: loses them.
            before, after: shares of the channels there were at first.
            evidence: of the model.
            agreed: gives several processes one and the same answer.

        Returns:
            What takes the same channels out of anything shaped like a parameter, such as the optimiser's moments.
        """
        channels = channels_of(model)
        known = self.chosen if before == 1.0 else None
        gone = agreed(lambda: set(known) if known is not None else self.ranking(model, evidence).dropped(after / before))
        cut_(model, channels, gone)
        return lambda name, tensor: without(name, tensor, channels, gone)

    def press_(self, model: nn.Module, step: int, total: int) -> None:
        """Adds the gradient of the sparsity term to the norms' scales, before the last stage."""
        if not self.sparsity or step > max(self.stages(total)):
            return
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.weight.grad is not None:
                layer.weight.grad.add_(layer.weight.detach().sign(), alpha=self.sparsity)


def plan(
    *,
    keep: Share = 0.5,
    steps: tuple[Share, ...] | None = None,
    start: Annotated[float, Range(0, 1)] = 0.5,
    how: How = "uniform",
    multiple: Annotated[int, Range(1, None)] = 1,
    exclude: tuple[str, ...] = (),
    sparsity: Annotated[float, Range(0, None)] = 0.0,
    target_ms: Wanted | None = None,
    target_gmacs: Wanted | None = None,
    target_params: Wanted | None = None,
    hw: tuple[Side, Side] = (1024, 2048),
    runtime: str = "eager",
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "bf16",
) -> Callable[[Rank], Pruner]:
    """What every pruner can be told, whatever it ranks by.

    Args:
        keep: share of the channels that stay.
        steps: shares that stay after each stage, falling, in place of ``keep``.
        start: share of a training after which the first stage comes; the others follow evenly until its end.
        how: ``uniform``: the same share of every layer; ``global``: where they are worth least against their layer's mean; ``scan``:
            so that each layer raises the loss alike, seen on some training pictures with one layer thinned at a time.
        multiple: numbers of channels left are multiples of this.
        exclude: beginnings of layers' names that lose nothing.
        sparsity: weight of the sum of the norms' absolute scales in the training loss before the last stage.
        target_ms, target_gmacs, target_params: milliseconds a picture, 10^9 multiply-adds or parameters that the network shall not
            exceed, one of them; the share is then searched for, in place of ``keep``.
        hw, runtime, precision: the picture's size, and what the network is timed in.

    Raises:
        ConfigError: the shares do not fall, or several of these say how many channels stay.
    """
    targets = {"ms": target_ms, "gmacs": target_gmacs, "params": target_params}
    given = {kind: value for kind, value in targets.items() if value is not None}
    if len(given) + (steps is not None) > 1:
        words = ["steps"] * (steps is not None) + [f"target_{kind}" for kind in given]
        raise ConfigError(f"pruner.{' and pruner.'.join(words)} both say how many channels stay. Keep one.")
    shares = steps or (keep,)
    if any(later >= earlier for earlier, later in zip(shares, shares[1:], strict=False)):
        raise ConfigError(f"pruner.steps={list(shares)} must fall: each is a share of the channels there were at first")
    target = next((Target(kind, value, hw, runtime, precision) for kind, value in given.items()), None)
    return lambda rank: Pruner(rank, shares, start, how, multiple, exclude, sparsity, target)


def ranked(**changed: Any) -> Callable[[Callable[..., Values]], Callable[..., Pruner]]:
    """Decorator: registers a pruner that goes by a ranking ``(model, channels, evidence, *, its own settings) -> Values``.

    Its settings are those of ``plan`` and the ranking's own, each with its default.

    Args:
        changed: defaults other than ``plan``'s.
    """

    def register(rank: Callable[..., Values]) -> Callable[..., Pruner]:
        own, shared = settings_of(rank), settings_of(plan)

        @functools.wraps(rank)
        def build(**given: Any) -> Pruner:
            mine = {name: value for name, value in given.items() if name in own}
            words = changed | {name: value for name, value in given.items() if name not in own}
            return plan(**words)(partial(rank, **mine))

        defaults = {name: setting.default for name, setting in (shared | own).items()} | changed
        types = {name: setting.type for name, setting in (shared | own).items()}
        build.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=types[name])
                for name in types
            ]
        )
        return PRUNERS.register(build)

    return register


def filters(weight: Tensor, slot: Slot) -> Tensor:
    """A convolution's weight as (filters, everything else)."""
    return torch.movedim(weight.detach(), slot.dim, 0).flatten(1)
