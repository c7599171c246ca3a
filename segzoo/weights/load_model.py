"""The starting point of a whole model: by parameter name, score layers by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from torch import Tensor, nn

from segzoo.registry import INITS, ConfigError, Range
from segzoo.weights.conversion import LoadableModel, convert_state_dict
from segzoo.weights.load_report import BACKBONE, LoadReport, loadable_tensors, matching_shapes
from segzoo.weights.state_dict import is_published, read_published, read_weights


class WholeModel(LoadableModel, Protocol):
    """What loading needs of a model, beyond being a module."""

    num_classes: int

    @property
    def backbone(self) -> Any: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def set_channel_widths_(self, state: Mapping[str, Tensor]) -> object: ...


@INITS.register
def checkpoint(
    model: WholeModel,
    classes: tuple[str, ...] | None,
    *,
    ckpt: str | None = None,
    match: Literal["name", "index"] = "name",
    min_share: Annotated[float, Range(0, 1)] = 0.5,
    freeze: tuple[Literal["c1", "c2", "c3", "c4", "c5"], ...] = (),
) -> LoadReport | None:
    """Loads a whole model's starting point by parameter name, in place, and prints the report; freezes stages of the backbone.

    Score layers (convolutions with bias outside the backbone, one output a class) are filled row by row; rows of classes that
    the checkpoint does not know keep their fresh values. A model with the layers of a pruned checkpoint becomes as narrow as that.

    Args:
        model: the model to fill; its backbone is called ``backbone``.
        classes: the model's class names; None if its data has none.
        ckpt: a path as ``segzoo.checkpoints.store.resolve`` takes it, in one of the layouts of ``segzoo.weights.conversion``; or the name of
            weights that torchvision publishes, such as ``FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1``; None does nothing.
        match: which row of a score layer goes where: by equal class ``name``, or by ``index``.
        min_share: part of the backbone's parameters, 0 to 1, that has to fit.
        freeze: stages of the backbone that keep their weights, and whose norms keep their statistics.

    Returns:
        The report, or None without ``ckpt``.

    Raises:
        ConfigError: if the file cannot be read, less than ``min_share`` of the backbone fits, names are to match and one side has none,
            or the checkpoint was pruned and has other layers than the model. The model is then as it was.
    """
    report = None if ckpt is None else _load(model, classes, ckpt, match, min_share)
    if freeze:
        model.backbone.freeze_(freeze)
    return report


def _load(model: WholeModel, classes: tuple[str, ...] | None, ckpt: str, match: str, min_share: float) -> LoadReport:
    state, theirs, widths = _read(ckpt)
    if match == "name" and not (classes and theirs):
        side = f"{ckpt} holds no class names" if classes else "the data set has no class names"
        raise ConfigError(f"init.match=name: {side}. Set init.match=index to keep the order of the classes.")
    if widths:
        _match_pruned_widths_(model, state, widths, len(theirs), ckpt)
    (state, layout), own = convert_state_dict(model, state), loadable_tensors(model)
    rows = {name: _rows(name, own, state, classes, theirs, match) for name in _classifier_tensors(model)}
    plain = [name for name in matching_shapes(own, state) if name not in rows]
    loaded = plain + [name for name in rows if rows[name]]
    note = _class_note(classes, theirs, match) + (f"; the file is in the layout of {layout}" if layout != "segzoo" else "")
    report = LoadReport.of(ckpt, model, state, {name: name for name in loaded}, BACKBONE, note)
    report.require(min_share, f"init.ckpt={ckpt} init.min_share={min_share:g}", "Is it a checkpoint of the same backbone?")
    for name in plain:
        own[name].copy_(state[name])
    for name, pairs in rows.items():
        for here, there in pairs:
            own[name][here] = state[name][there]
    report.log()
    return report


def _read(ckpt: str) -> tuple[dict[str, Tensor], tuple[str, ...], Mapping[str, int]]:
    """Tensors; class names, of which a file of others has none; and the output channels of what was pruned."""
    if is_published(ckpt):
        return *read_published(ckpt, f"init.ckpt={ckpt}"), {}
    state, known = read_weights(ckpt)
    return state, tuple(known.get("dataset", {}).get("classes", ())), known.get("widths", {})


def _match_pruned_widths_(
    model: WholeModel, state: Mapping[str, Tensor], widths: Mapping[str, int], theirs: int, ckpt: str
) -> None:
    """Gives a model the widths of a pruned checkpoint, in place; its values are its own, and it scores the classes that it scored.

    Args:
        model: of the checkpoint's layers.
        state: the checkpoint's tensors.
        widths: output channels of its pruned convolutions, by name.
        theirs: classes that it scores.
        ckpt: the checkpoint, for messages.

    Raises:
        ConfigError: the model has other layers, or narrower ones.
    """
    own = model.state_dict()
    faults = sorted(own.keys() ^ state.keys()) + sorted(widths.keys() - dict(model.named_modules()).keys())
    faults += [name for name in own.keys() & state.keys() if not _can_narrow(own[name].shape, state[name].shape, model, theirs)]
    if faults:
        raise ConfigError(
            f"init.ckpt={ckpt} was pruned, and its layers are not narrower ones of this model: {', '.join(faults[:5])}"
            f"{' and more' if len(faults) > 5 else ''}. Give the model and backbone words that it was trained with; or go on with that "
            "run as it is: resume=<run> out=<new folder>."
        )
    cut = {}
    for name, tensor in own.items():
        pruned = name.rpartition(".")[0] in widths
        for dim, (mine, size) in enumerate(zip(tensor.shape, state[name].shape, strict=True)):
            if pruned or (mine, size) != (model.num_classes, theirs):  # else a layer of classes, which are this model's
                tensor = tensor.narrow(dim, 0, size)
        cut[name] = tensor
    model.set_channel_widths_(cut)


def _can_narrow(own: Sequence[int], wanted: Sequence[int], model: WholeModel, theirs: int) -> bool:
    """Whether a tensor of one shape has the other within it, kernels being equal and classes any number."""
    pairs = list(zip(own, wanted, strict=False))
    within = all(size <= mine or (mine, size) == (model.num_classes, theirs) for mine, size in pairs)
    return len(own) == len(wanted) and within and own[2:] == wanted[2:]


def _classifier_tensors(model: WholeModel) -> list[str]:
    layers = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and layer.out_channels == model.num_classes
    ]
    return [f"{layer}.{part}" for layer in layers if not layer.startswith(BACKBONE) for part in ("weight", "bias")]


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
