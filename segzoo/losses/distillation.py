"""Distillation: the student also learns a teacher's probabilities and attention maps.

It was built for recovery after pruning, with the network before pruning as the teacher. Any other checkpoint of the same classes
works as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.device import constant
from segzoo.layers.modes import is_recomputing
from segzoo.layers.resize import realign, resize
from segzoo.messages import did_you_mean
from segzoo.registry import DISTILLS, ConfigError, Range
from segzoo.types import DatasetInfo, Logits

Weight = Annotated[float, Range(0, 1e6)]
LoadTeacher = Callable[[str], tuple[nn.Module, DatasetInfo]]
ForwardFn = Callable[[nn.Module, Tensor], Logits]  # a forward pass in the number format of the training
Hook = Callable[[nn.Module, tuple, object], None]
Role = Literal["teacher", "student"]


@DISTILLS.register
def none(load: LoadTeacher, info: DatasetInfo) -> None:
    """No distillation: the labels are the only target."""


@DISTILLS.register
def teacher(
    load: LoadTeacher,
    info: DatasetInfo,
    *,
    ckpt: str | None = None,
    weight: Weight = 1.0,
    temperature: Annotated[float, Range(0, 1000, above=True)] = 2.0,
    layers: tuple[str, ...] = (),
    layer_weight: Weight = 1.0,
) -> Teacher:
    """Distillation from a trained network, at each pixel.

    Hinton et al., 2015, arXiv:1503.02531.

    Args:
        load: reads a checkpoint and returns the network in evaluation mode and its dataset info.
        info: dataset info of the training data.
        ckpt: run directory or file of the teacher; null in ``tools/prune.py``: the network before pruning.
        weight: of the Kullback-Leibler divergence from the teacher's class probabilities, a mean over pixels of the student's logits.
        temperature: T, which divides the logits of both networks. The term is multiplied by T^2, so that its gradients keep their
            scale.
        layers: modules of both networks whose attention maps are compared as well (Zagoruyko and Komodakis, ICLR 2017,
            arXiv:1612.03928): the mean square over channels, normalized to length one for each image, so the number of channels may
            differ. ``conv5_4`` of ICNet follows right after its pyramid. If a module outputs several feature maps, as PSPNet's
            ``pyramid`` does, each is compared.
        layer_weight: of the squared distance of the attention maps, a mean over layers and images.

    Raises:
        ConfigError: ``ckpt`` is missing, or the teacher has other classes.
    """
    if ckpt is None:
        raise ConfigError("distill=teacher needs a teacher. Set distill.ckpt=<run directory or file>.")
    network, teacher_info = load(ckpt)
    if teacher_info.classes != info.classes:
        raise ConfigError(
            f"distill.ckpt={ckpt} was trained on the classes {', '.join(teacher_info.classes)}, but the data has "
            f"{', '.join(info.classes)}. Use a teacher of the same classes."
        )
    if teacher_info.pixels != info.pixels:
        raise ConfigError(
            f"distill.ckpt={ckpt} takes images with {teacher_info.pixels}, but those of the data have {info.pixels}. Use a teacher of the "
            "same images."
        )
    scale = tuple(std / teacher_std for std, teacher_std in zip(info.std, teacher_info.std, strict=True))
    shift = tuple(
        (mean - teacher_mean) / teacher_std
        for mean, teacher_mean, teacher_std in zip(info.mean, teacher_info.mean, teacher_info.std, strict=True)
    )
    return Teacher(network, weight, temperature, layers, layer_weight, scale, shift)


class Teacher:
    """Distillation term with a frozen teacher in evaluation mode.

    ``scale`` and ``shift``, one value per channel, convert images from the student's normalization to the teacher's. See
    ``teacher`` for the other arguments.
    """

    def __init__(
        self,
        network: nn.Module,
        weight: float,
        temperature: float,
        layers: tuple[str, ...],
        layer_weight: float,
        scale: tuple[float, ...] = (1.0, 1.0, 1.0),
        shift: tuple[float, ...] = (0.0, 0.0, 0.0),
    ):
        self.network = network.eval().requires_grad_(False)
        self.weight, self.temperature, self.layers, self.layer_weight = weight, temperature, layers, layer_weight
        self.scale, self.shift = scale, shift
        self.align_corners = False  # of the student, which its grid follows
        self._features: dict[Role, dict[str, list[Tensor]]] = {"teacher": {}, "student": {}}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def attach(self, student: nn.Module) -> None:
        """Move to a student's device and register hooks on its layers.

        Hooks on a previous student are removed.

        Raises:
            ConfigError: one of the networks does not have all layers.
        """
        self.network.to(next(student.parameters()).device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.align_corners = getattr(student, "align_corners", False)
        for hook in self._hooks:
            hook.remove()
        networks: dict[Role, nn.Module] = {"teacher": self.network, "student": student}
        self._hooks = [
            _module(network, name).register_forward_hook(self._feature_hook(role, name, network))
            for role, network in networks.items()
            for name in self.layers
        ]

    def __call__(self, x: Tensor, logits: Logits, forward: ForwardFn) -> Tensor:
        """Compute the term for the batch of the student's last forward pass.

        Args:
            x: (N, C, H, W), the student's input.
            logits: the student's output.
            forward: runs the teacher.
        """
        with torch.no_grad():
            teacher_logits = forward(self.network, self._teacher_input(x)).main
        loss = self.weight * self._logit_loss(logits.main, teacher_logits, x.shape[-2:])
        if self.layers:
            loss = loss + self.layer_weight * torch.stack([self._attention_loss(name) for name in self.layers]).mean()
        for features in self._features.values():
            features.clear()
        return loss

    def _teacher_input(self, x: Tensor) -> Tensor:
        if set(self.scale) == {1.0} and set(self.shift) == {0.0}:
            return x
        scale, shift = (constant(values, x.dtype, x.device).view(1, -1, 1, 1) for values in (self.scale, self.shift))
        return x * scale + shift

    def _attention_loss(self, name: str) -> Tensor:
        student_maps, teacher_maps = (self._features[role].get(name, []) for role in ("student", "teacher"))
        if not student_maps or len(student_maps) != len(teacher_maps):
            raise ConfigError(_count_mismatch(name, len(student_maps), len(teacher_maps)))
        pairs = zip(student_maps, teacher_maps, strict=True)
        return torch.stack([_attention_distance(*pair, self.align_corners) for pair in pairs]).mean()

    def _logit_loss(self, student_logits: Tensor, teacher_logits: Tensor, image_size: torch.Size) -> Tensor:
        size, aligned = student_logits.shape[-2:], getattr(self.network, "align_corners", False)
        if aligned != self.align_corners:
            teacher_logits = realign(teacher_logits, size, image_size, aligned, self.align_corners)
        elif teacher_logits.shape[-2:] != size:
            teacher_logits = resize(teacher_logits, size, aligned)
        student, teacher = ((logits / self.temperature).log_softmax(1) for logits in (student_logits, teacher_logits))
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * divergence.mean()

    def _feature_hook(self, role: Role, name: str, network: nn.Module) -> Hook:
        def store(module: nn.Module, inputs: tuple, output: object) -> None:
            # in training by the network's mode, because a frozen layer is in evaluation mode
            if role == "teacher" or (network.training and not is_recomputing()):
                self._features[role][name] = _feature_maps(output)

        return store


def check_layers(student: nn.Module, teacher: nn.Module, layers: Sequence[str], x: Tensor) -> None:
    """Run both networks and reject layers whose feature maps cannot be compared.

    On the meta device this costs almost nothing.

    Args:
        student, teacher: the two networks, in the modes they are used in.
        layers: names of modules.
        x: (N, 3, H, W), on the device of both.

    Raises:
        ConfigError: a network has no such layer, never calls it as a whole, or gets no feature map from it; or the number of
            feature maps differs.
    """
    student_counts, teacher_counts = (_count_feature_maps(network, layers, x) for network in (student, teacher))
    errors = [
        _count_mismatch(name, student_counts[name], teacher_counts[name])
        for name in layers
        if student_counts[name] != teacher_counts[name]
    ]
    if errors:
        raise ConfigError(errors)


def _count_feature_maps(network: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, int]:
    """Number of feature maps that each layer outputs."""
    for name in layers:
        _module(network, name)
    counts: dict[str, int] = {}

    def counter(name: str) -> Hook:
        return lambda module, inputs, output: counts.update({name: len(_feature_maps(output))})

    hooks = [module.register_forward_hook(counter(name)) for name, module in network.named_modules()]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    errors = []
    for name in layers:
        if not counts.get(name):
            inner = [layer for layer, count in counts.items() if layer.startswith(f"{name}.") and count]
            hint = f"Use a layer inside it, such as {inner[-1]}" if inner else "Use a layer that outputs feature maps (N, C, H, W)"
            problem = f"gets no feature map from {name!r}" if name in counts else f"never calls {name!r} as a whole"
            errors.append(f"distill.layers: {type(network).__name__} {problem}. {hint}.")
    if errors:
        raise ConfigError(errors)
    return counts


def _feature_maps(output: object) -> list[Tensor]:
    """Feature maps (N, C, H, W) in a module's output.

    The output may be a tensor, a list or a dict.
    """
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else [output]
    return [value for value in values if isinstance(value, Tensor) and value.dim() == 4]


def _count_mismatch(name: str, student_count: int, teacher_count: int) -> str:
    return (
        f"distill.layers: {name!r} outputs {student_count} feature maps in the student and {teacher_count} in the teacher. "
        "Use another layer."
    )


def _module(network: nn.Module, name: str) -> nn.Module:
    modules = dict(network.named_modules())
    if name not in modules or not name:
        raise ConfigError(f"distill.layers: {type(network).__name__} has no layer {name!r}.{did_you_mean(name, modules)}")
    return modules[name]


def _attention_distance(student_map: Tensor, teacher_map: Tensor, align_corners: bool) -> Tensor:
    """Squared distance of two normalized attention maps, averaged over images."""
    if student_map.shape[-2:] != teacher_map.shape[-2:]:
        teacher_map = resize(teacher_map.float(), student_map.shape[-2:], align_corners=align_corners)
    student, teacher = (F.normalize(x.float().square().mean(1).flatten(1), dim=1) for x in (student_map, teacher_map))
    return (student - teacher).square().sum(1).mean()
