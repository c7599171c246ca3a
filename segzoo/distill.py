"""A second network that teaches: the student also learns its scores, and where its maps are bright.

Recovery after pruning is the use it was built for, with the network that was pruned as the teacher; any other checkpoint of the same
classes teaches as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.registry import DISTILLS, ConfigError, Range, nearest
from segzoo.types import DataCard, Logits

Weight = Annotated[float, Range(0, None)]
Load = Callable[[str], tuple[nn.Module, DataCard]]
Pass = Callable[[nn.Module, Tensor], Logits]  # a forward pass in the number format of the training


@DISTILLS.register
def none(load: Load, card: DataCard) -> None:
    """Labels alone teach."""


@DISTILLS.register
def teacher(
    load: Load,
    card: DataCard,
    *,
    ckpt: str | None = None,
    weight: Weight = 1.0,
    temperature: Annotated[float, Range(0, None, above=True)] = 2.0,
    layers: tuple[str, ...] = (),
    layer_weight: Weight = 1.0,
) -> Teacher:
    """Adds the distance to a trained network's answers to the loss. Hinton et al., 2015, arXiv:1503.02531, for each pixel.

    Args:
        load: reads a checkpoint: the network in evaluation mode, and its data card.
        card: the classes that are trained.
        ckpt: the teacher's run folder or file; null in ``tools/prune.py``: the network that is pruned.
        weight: of the Kullback-Leibler divergence from the teacher's class probabilities, a mean over pixels.
        temperature: T by which both sides' scores are divided; the term is multiplied by T^2, so that its gradients keep their size.
        layers: modules of both networks whose attention maps are compared too (Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928):
            the mean square over channels, of length one for each picture, so that channels may differ in number. ``conv5_4`` of ICNet
            stands right behind its pyramid.
        layer_weight: of the squared distance of these maps, a mean over layers and pictures.

    Raises:
        ConfigError: no checkpoint is given, or it knows other classes.
    """
    if ckpt is None:
        raise ConfigError("distill=teacher: whose network teaches? Say distill.ckpt=<run folder or file>")
    net, own = load(ckpt)
    if own.classes != card.classes:
        raise ConfigError(f"distill.ckpt={ckpt} knows the classes {', '.join(own.classes)}, the data has {', '.join(card.classes)}")
    return Teacher(net, weight, temperature, layers, layer_weight)


class Teacher:
    """Gives the term that ``teacher`` describes. The network is frozen and stays in evaluation mode."""

    def __init__(self, net: nn.Module, weight: float, temperature: float, layers: tuple[str, ...], layer_weight: float):
        self.net = net.eval().requires_grad_(False)
        self.weight, self.temperature, self.layers, self.layer_weight = weight, temperature, layers, layer_weight
        self._seen: dict[str, dict[str, Tensor]] = {"teacher": {}, "student": {}}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self, student: nn.Module) -> None:
        """Goes to a student's device and watches its layers, and no longer those of another.

        Raises:
            ConfigError: one of the networks has no layer of a name.
        """
        self.net.to(next(student.parameters()).device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for hook in self._hooks:
            hook.remove()
        self._hooks = [
            _module(net, name).register_forward_hook(self._keeper(side, name))
            for side, net in (("teacher", self.net), ("student", student))
            for name in self.layers
        ]

    def __call__(self, x: Tensor, logits: Logits, run: Pass) -> Tensor:
        """The term of one batch, whose pictures the student has just been given.

        Args:
            x: (N, 3, H, W), the student's input.
            logits: the student's answer.
            run: how the teacher is run.
        """
        with torch.no_grad():
            wanted = run(self.net, x).main
        term = self.weight * self._of_scores(logits.main, wanted)
        if self.layers:
            distances = [_distance(self._seen["student"][name], self._seen["teacher"][name]) for name in self.layers]
            term = term + self.layer_weight * torch.stack(distances).mean()
        for seen in self._seen.values():
            seen.clear()
        return term

    def _of_scores(self, scores: Tensor, wanted: Tensor) -> Tensor:
        if wanted.shape[-2:] != scores.shape[-2:]:
            wanted = F.interpolate(wanted, scores.shape[-2:], mode="bilinear", align_corners=False)
        ours, theirs = ((side / self.temperature).log_softmax(1) for side in (scores, wanted))
        apart = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * apart.mean()

    def _keeper(self, side: str, name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        def keep(module: nn.Module, given: tuple, made: Tensor) -> None:
            if side == "teacher" or module.training:
                self._seen[side][name] = made

        return keep


def _module(net: nn.Module, name: str) -> nn.Module:
    modules = dict(net.named_modules())
    if name not in modules or not name:
        raise ConfigError(f"distill.layers: {type(net).__name__} has no layer {name!r}.{nearest(name, modules)}")
    return modules[name]


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean over pictures of the squared distance of two attention maps of length one."""
    if ours.shape[-2:] != theirs.shape[-2:]:
        theirs = F.interpolate(theirs.float(), ours.shape[-2:], mode="bilinear", align_corners=False)
    one, other = (F.normalize(maps.float().square().mean(1).flatten(1), dim=1) for maps in (ours, theirs))
    return (one - other).square().sum(1).mean()
