"""Starting points: loading weights into a trunk or into a whole model, with an account of what became of every tensor."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal, Protocol
from urllib.error import URLError

from torch import Tensor, nn

from segzoo.registry import INITS, ConfigError, Range
from segzoo.weight_files import locate, read_metadata, read_state
from segzoo.weight_report import TRUNK, Net, Report, fitting, tensors_of

__all__ = ["Report", "checkpoint", "load_trunk", "locate", "read_metadata", "read_state"]

TRUNK_SHARE = 0.5  # of a trunk's parameters that trunk-only weights must bring, else they are the wrong weights


class Trunk(Net, Protocol):
    """What loading needs of a backbone, beyond being a module; see ``segzoo.backbones``."""

    def imagenet(self) -> tuple[str, str]: ...

    def aliases(self, keys: Collection[str]) -> dict[str, str]: ...


class WholeModel(Net, Protocol):
    """What loading needs of a model, beyond being a module."""

    num_classes: int

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...


def load_trunk(backbone: Trunk, weights: str) -> Report | None:
    """Loads trunk-only weights into a backbone, in place, and prints the report.

    Args:
        backbone: the trunk; its ``aliases`` say what torchvision and timm call its layers.
        weights: ``none``; ``imagenet`` (downloaded once through torchvision, hash checked); or a path as
            ``segzoo.weight_files.locate`` takes it, to a state dict of torchvision, timm or segzoo, of a trunk or of a whole
            model whose trunk is called ``backbone``.

    Returns:
        The report, or None for ``none``.

    Raises:
        ConfigError: if the weights cannot be had or read, or fit less than half of the trunk's parameters. The trunk is then
            as it was.
    """
    if weights == "none":
        return None
    state, note = _imagenet(backbone) if weights == "imagenet" else (read_state(weights), "")
    prefix = TRUNK if any(name.startswith(TRUNK) for name in state) else ""
    inside = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    aliases = backbone.aliases(inside)
    names = {_rename(name, aliases): prefix + name for name in inside}  # name here -> name in the file
    own = tensors_of(backbone)
    pairs = {name: names[name] for name in fitting(own, {name: state[theirs] for name, theirs in names.items()})}
    report = Report.of(weights, backbone, state, pairs, "", note)
    report.require(TRUNK_SHARE, f"backbone.weights={weights}", "Do the name, stem and width of the backbone match the file?")
    for name, theirs in pairs.items():
        own[name].copy_(state[theirs])
    report.say()
    return report


@INITS.register
def checkpoint(
    model: WholeModel,
    classes: tuple[str, ...] | None,
    *,
    ckpt: str | None = None,
    match: Literal["name", "index"] = "name",
    min_share: Annotated[float, Range(0, 1)] = 0.5,
) -> Report | None:
    """Loads a whole model's starting point by parameter name, in place, and prints the report.

    Score layers (convolutions with bias outside the trunk, one output a class) are filled row by row; rows of classes that
    the checkpoint does not know keep their fresh values.

    Args:
        model: the model to fill; its trunk is called ``backbone``.
        classes: the model's class names; None if its data has none.
        ckpt: a path as ``segzoo.weight_files.locate`` takes it; None does nothing.
        match: which row of a score layer goes where: by equal class ``name``, or by ``index``.
        min_share: part of the trunk's parameters, 0 to 1, that has to fit.

    Returns:
        The report, or None without ``ckpt``.

    Raises:
        ConfigError: if the file cannot be read, less than ``min_share`` of the trunk fits, or names are to match and one
            side has none. The model is then as it was.
    """
    if ckpt is None:
        return None
    state, own = read_state(ckpt), tensors_of(model)
    theirs = tuple(read_metadata(ckpt).get("card", {}).get("classes", ()))
    if match == "name" and not (classes and theirs):
        side = f"{ckpt} holds no class names" if classes else "the data set has no class names"
        raise ConfigError(f"init.match=name: {side}. Set init.match=index to keep the order of the classes.")
    rows = {name: _rows(name, own, state, classes, theirs, match) for name in _score_tensors(model)}
    plain = [name for name in fitting(own, state) if name not in rows]
    loaded = plain + [name for name in rows if rows[name]]
    note = _class_note(classes, theirs, match)
    report = Report.of(ckpt, model, state, {name: name for name in loaded}, TRUNK, note)
    report.require(min_share, f"init.ckpt={ckpt} init.min_share={min_share:g}", "Is it a checkpoint of the same backbone?")
    for name in plain:
        own[name].copy_(state[name])
    for name, pairs in rows.items():
        for here, there in pairs:
            own[name][here] = state[name][there]
    report.say()
    return report


def _imagenet(backbone: Trunk) -> tuple[Mapping[str, Tensor], str]:
    from torchvision.models import get_weight

    entry, note = backbone.imagenet()
    weights = get_weight(entry)
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True), note
    except URLError as error:
        raise ConfigError(
            f"backbone.weights=imagenet: {weights.url} could not be downloaded ({error.reason}). "
            "Fetch the file elsewhere and set backbone.weights=<path>, or set backbone.weights=none."
        ) from error


def _rename(name: str, aliases: Mapping[str, str]) -> str:
    return next((new + name.removeprefix(old) for old, new in aliases.items() if name.startswith(old)), name)


def _score_tensors(model: WholeModel) -> list[str]:
    layers = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and layer.out_channels == model.num_classes
    ]
    return [f"{layer}.{part}" for layer in layers if not layer.startswith(TRUNK) for part in ("weight", "bias")]


def _rows(
    name: str,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    classes: tuple[str, ...] | None,
    theirs: tuple[str, ...],
    match: str,
) -> list[tuple[int, int]]:
    """Row of the score tensor ``name`` here, row in the file that it takes; none if the layers do not fit."""
    weight = name.rpartition(".")[0] + ".weight"
    if name not in state or weight not in state or state[weight].shape[1:] != own[weight].shape[1:]:
        return []
    if match == "index":
        return [(row, row) for row in range(min(len(state[name]), len(own[name])))]
    if len(state[name]) != len(theirs):
        return []
    return [(row, theirs.index(known)) for row, known in enumerate(classes or ()) if known in theirs]


def _class_note(classes: tuple[str, ...] | None, theirs: tuple[str, ...], match: str) -> str:
    if match == "index" or classes is None:
        return "classes matched by position"
    new = [name for name in classes if name not in theirs]
    return f"{len(classes) - len(new)} of {len(classes)} classes matched by name" + (f"; new: {', '.join(new)}" if new else "")
