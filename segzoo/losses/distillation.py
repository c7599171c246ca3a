"""A second network that teaches: the student also learns its scores, and where its maps are bright.

Recovery after pruning is the use it was built for, with the network that was pruned as the teacher; any other checkpoint of the same
classes teaches as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.layers.resize import resize
from segzoo.registry import DISTILLS, ConfigError, Range, did_you_mean
from segzoo.types import DatasetInfo, Logits

Weight = Annotated[float, Range(0, None)]
LoadTeacher = Callable[[str], tuple[nn.Module, DatasetInfo]]
ForwardFn = Callable[[nn.Module, Tensor], Logits]  # a forward pass in the number format of the training


@DISTILLS.register
def none(load: LoadTeacher, info: DatasetInfo) -> None:
    """Labels alone teach."""


@DISTILLS.register
def teacher(
    load: LoadTeacher,
    info: DatasetInfo,
    *,
    ckpt: str | None = None,
    weight: Weight = 1.0,
    temperature: Annotated[float, Range(0, None, above=True)] = 2.0,
    layers: tuple[str, ...] = (),
    layer_weight: Weight = 1.0,
) -> Teacher:
    """Adds the distance to a trained network's answers to the loss. Hinton et al., 2015, arXiv:1503.02531, for each pixel.

    Args:
        load: reads a checkpoint: the network in evaluation mode, and its dataset info.
        info: the classes that are trained.
        ckpt: the teacher's run directory or file; null in ``tools/prune.py``: the network that is pruned.
        weight: of the Kullback-Leibler divergence from the teacher's class probabilities, a mean over pixels.
        temperature: T by which both sides' scores are divided; the term is multiplied by T^2, so that its gradients keep their size.
        layers: modules of both networks whose attention maps are compared too (Zagoruyko and Komodakis, ICLR 2017, arXiv:1612.03928):
            the mean square over channels, of length one for each image, so that channels may differ in number. ``conv5_4`` of ICNet
            stands right behind its pyramid. Of a module that answers several maps, as PSPNet's ``pyramid`` does, each is compared.
        layer_weight: of the squared distance of these maps, a mean over layers and images.

    Raises:
        ConfigError: no checkpoint is given, or it knows other classes.
    """
    if ckpt is None:
        raise ConfigError("distill=teacher: whose network teaches? Say distill.ckpt=<run directory or file>")
    net, own = load(ckpt)
    if own.classes != info.classes:
        raise ConfigError(f"distill.ckpt={ckpt} knows the classes {', '.join(own.classes)}, the data has {', '.join(info.classes)}")
    scale = tuple(ours / theirs for ours, theirs in zip(info.std, own.std, strict=True))
    shift = tuple((ours - theirs) / std for ours, theirs, std in zip(info.mean, own.mean, own.std, strict=True))
    return Teacher(net, weight, temperature, layers, layer_weight, scale, shift)


class Teacher:
    """Gives the term that ``teacher`` describes. The network is frozen and stays in evaluation mode.

    ``scale`` and ``shift``, of each color, make of images that are normalized for the student those that the teacher learned from.
    """

    def __init__(
        self,
        net: nn.Module,
        weight: float,
        temperature: float,
        layers: tuple[str, ...],
        layer_weight: float,
        scale: tuple[float, ...] = (1.0, 1.0, 1.0),
        shift: tuple[float, ...] = (0.0, 0.0, 0.0),
    ):
        self.net = net.eval().requires_grad_(False)
        self.weight, self.temperature, self.layers, self.layer_weight = weight, temperature, layers, layer_weight
        self.scale, self.shift = scale, shift
        self._features: dict[str, dict[str, list[Tensor]]] = {"teacher": {}, "student": {}}
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
            _module(net, name).register_forward_hook(self._feature_hook(side, name, net))
            for side, net in (("teacher", self.net), ("student", student))
            for name in self.layers
        ]

    def __call__(self, x: Tensor, logits: Logits, run: ForwardFn) -> Tensor:
        """The term of one batch, whose images the student has just been given.

        Args:
            x: (N, 3, H, W), the student's input.
            logits: the student's answer.
            run: how the teacher is run.
        """
        with torch.no_grad():
            wanted = run(self.net, self._teacher_input(x)).main
        term = self.weight * self._logit_loss(logits.main, wanted)
        if self.layers:
            term = term + self.layer_weight * torch.stack([self._attention_loss(name) for name in self.layers]).mean()
        for seen in self._features.values():
            seen.clear()
        return term

    def _teacher_input(self, x: Tensor) -> Tensor:
        if set(self.scale) == {1.0} and set(self.shift) == {0.0}:
            return x
        scale, shift = (x.new_tensor(values).view(1, -1, 1, 1) for values in (self.scale, self.shift))
        return x * scale + shift

    def _attention_loss(self, name: str) -> Tensor:
        ours, theirs = (self._features[side].get(name, []) for side in ("student", "teacher"))
        if not ours or len(ours) != len(theirs):
            raise ConfigError(_shape_mismatch(name, len(ours), len(theirs)))
        return torch.stack([_distance(one, other) for one, other in zip(ours, theirs, strict=True)]).mean()

    def _logit_loss(self, scores: Tensor, wanted: Tensor) -> Tensor:
        if wanted.shape[-2:] != scores.shape[-2:]:
            wanted = resize(wanted, scores.shape[-2:], align_corners=False)
        ours, theirs = ((side / self.temperature).log_softmax(1) for side in (scores, wanted))
        apart = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * apart.mean()

    def _feature_hook(self, side: str, name: str, net: nn.Module) -> Callable[[nn.Module, tuple, Any], None]:
        def keep(module: nn.Module, given: tuple, made: Any) -> None:
            if side == "teacher" or net.training:  # the layer itself may be frozen, and evaluate in a training
                self._features[side][name] = _feature_maps(made)

        return keep


def check_layers(student: nn.Module, net: nn.Module, layers: Sequence[str], x: Tensor) -> None:
    """Runs both networks, on the meta device where that shall cost nothing, and rejects layers whose maps cannot be compared.

    Args:
        student, net: the two networks, in the modes they will be in.
        layers: names of modules.
        x: (N, 3, H, W), on the device of both.

    Raises:
        ConfigError: a network has no layer of a name, never runs it as a whole, or gets no map from it; or not as many in both.
    """
    ours, theirs = (_layer_outputs(side, layers, x) for side in (student, net))
    if faults := [_shape_mismatch(name, ours[name], theirs[name]) for name in layers if ours[name] != theirs[name]]:
        raise ConfigError(faults)


def _layer_outputs(net: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, int]:
    """How many maps each layer answers."""
    for name in layers:
        _module(net, name)
    seen: dict[str, int] = {}

    def keeper(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        return lambda module, given, made: seen.update({name: len(_feature_maps(made))})

    hooks = [module.register_forward_hook(keeper(name)) for name, module in net.named_modules()]
    try:
        with torch.no_grad():
            net(x)
    finally:
        for hook in hooks:
            hook.remove()
    faults = []
    for name in layers:
        if not seen.get(name):
            within = [layer for layer, maps in seen.items() if layer.startswith(f"{name}.") and maps]
            tip = f"Name a layer within it, such as {within[-1]}" if within else "Name a layer that answers maps (N, C, H, W)"
            came = "gets no map from" if name in seen else "never runs, as a whole,"
            faults.append(f"distill.layers: {type(net).__name__} {came} {name!r}. {tip}.")
    if faults:
        raise ConfigError(faults)
    return seen


def _feature_maps(made: Any) -> list[Tensor]:
    """The maps (N, C, H, W) that a module answers: one, or several in a list or a table."""
    several = made.values() if isinstance(made, Mapping) else made if isinstance(made, list | tuple) else [made]
    return [one for one in several if isinstance(one, Tensor) and one.dim() == 4]


def _shape_mismatch(name: str, ours: int, theirs: int) -> str:
    return (
        f"distill.layers: {name!r} answers {ours} maps in the network that learns and {theirs} in the teacher. Name another layer."
    )


def _module(net: nn.Module, name: str) -> nn.Module:
    modules = dict(net.named_modules())
    if name not in modules or not name:
        raise ConfigError(f"distill.layers: {type(net).__name__} has no layer {name!r}.{did_you_mean(name, modules)}")
    return modules[name]


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean over images of the squared distance of two attention maps of length one."""
    if ours.shape[-2:] != theirs.shape[-2:]:
        theirs = resize(theirs.float(), ours.shape[-2:], align_corners=False)
    one, other = (F.normalize(maps.float().square().mean(1).flatten(1), dim=1) for maps in (ours, theirs))
    return (one - other).square().sum(1).mean()
