"""Initialization of a whole model from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from torch import Tensor, nn

from segzoo.checkpoints.paths import is_published
from segzoo.layers.channel_widths import adapt_input_weights
from segzoo.registry import INITS, ConfigError, Range
from segzoo.types import PlainMapping
from segzoo.weights._base import LoadableBackbone, LoadableModel
from segzoo.weights.conversion import convert_state_dict, detect_layout
from segzoo.weights.identify import backbone_mismatch
from segzoo.weights.load_backbone import names_in_file
from segzoo.weights.load_report import BACKBONE, LoadReport, loadable_tensors, matching_shapes
from segzoo.weights.state_dict import Weights, read_published, read_weights

Match = Literal["name", "index"]
Narrow = Literal["none", "l1"]


@INITS.register
def checkpoint(
    model: LoadableModel,
    classes: tuple[str, ...] | None,
    *,
    ckpt: str | None = None,
    match: Match = "name",
    min_share: Annotated[float, Range(0, 1)] = 0.5,
    narrow: Narrow = "none",
    freeze: tuple[Literal["c1", "c2", "c3", "c4", "c5"], ...] = (),
) -> LoadReport | None:
    """Initialize a model from a checkpoint in place and print the report.

    Tensors are matched by parameter name. Classifiers (convolutions with a bias outside the backbone and one output channel per
    class) are filled row by row, and rows of classes that the checkpoint does not have keep their initial values. Transposed convolutions
    of class scores are filled in the same way in both directions. If the checkpoint
    was pruned, the model is narrowed to its channel widths. Finally, stages of the backbone are frozen.

    Args:
        model: the model to initialize, with a submodule ``backbone``.
        classes: the model's class names, or None if the dataset has none.
        ckpt: a path as ``segzoo.checkpoints.paths.resolve_weight_file`` takes it, in one of the layouts of
            ``segzoo.weights.conversion``; or the name of weights that torchvision publishes, such as
            ``FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1``. With ``narrow``, also ``imagenet`` (torchvision's) or a file of a
            backbone alone. None loads nothing.
        match: match classifier rows by class ``name`` or by ``index``.
        min_share: smallest fraction of the backbone's parameters that has to match, 0 to 1.
        narrow: ``l1``: the checkpoint may be wider, and the channels with the largest L1 norm are kept, see
            ``segzoo.pruning.narrowing``.
        freeze: stages of the backbone whose weights and batch norm statistics are frozen.

    Returns:
        The report, or None without ``ckpt``.

    Raises:
        ConfigError: the file cannot be read; it is for images of other channels, neither RGB nor the model's; less than ``min_share`` of the backbone matches; ``match=name`` but the checkpoint or
            the dataset has no class names; or the checkpoint was pruned and does not have the model's layers. The model is then
            unchanged.
    """
    report = None if ckpt is None else _load(model, classes, ckpt, match, min_share, narrow)
    if freeze:
        model.backbone.freeze_(freeze)
    return report


def _load(
    model: LoadableModel, classes: tuple[str, ...] | None, ckpt: str, match: Match, min_fraction: float, narrow: Narrow
) -> LoadReport:
    (state, metadata, key), ckpt_classes = _read(model, ckpt, narrow)
    _check_input_channels(model, metadata, ckpt)
    whole_model = any(name.startswith(BACKBONE) for name in state) or detect_layout(state) != "segzoo"
    if narrow != "none" and not whole_model:
        state = {BACKBONE + name: state[external] for name, external in names_in_file(model.backbone, state).items()}
    elif match == "name" and not (classes and ckpt_classes):
        problem = f"{ckpt} has no class names" if classes else "the dataset has no class names"
        raise ConfigError(f"init.match=name: {problem}. Set init.match=index to match classes by position.")
    state = adapt_input_weights(model.input_convs, state, model.input_channels)
    if narrow == "none" and (widths := metadata.get("widths")):
        _match_pruned_widths_(model, state, widths, len(ckpt_classes), ckpt)
    hint = backbone_mismatch("init.ckpt", state, model.state_dict())
    (state, layout), own = convert_state_dict(model, state), loadable_tensors(model)
    state = adapt_input_weights(model.input_convs, state, model.input_channels)  # those that had other names
    if narrow == "l1":
        state = model.narrow_state_dict(state)
    axes = _class_axes(model)
    rows = {name: _matching_rows(name, axes[name], own, state, classes, ckpt_classes, match) for name in axes}
    whole = [name for name in matching_shapes(own, state) if name not in rows]
    loaded = whole + [name for name in rows if rows[name]]
    note = _class_note(classes, ckpt_classes, match) + (f"; the file is in the layout of {layout}" if layout != "segzoo" else "")
    note += f"; taken from {key!r} in the file" if key else ""
    note += "; narrowed by the L1 norm of filters" if narrow == "l1" else ""
    note += f"; adapted to images of {model.input_channels} channels" if model.input_convs else ""
    incomplete = tuple(
        name for name in rows if not name.startswith("aux.") and not len(rows[name]) == len(own[name]) == len(state.get(name, ()))
    )
    report = replace(LoadReport.of(ckpt, model, state, {name: name for name in loaded}, BACKBONE, note), incomplete=incomplete)
    report.require(min_fraction, f"init.ckpt={ckpt} init.min_share={min_fraction:g}", hint)
    for name in whole:
        own[name].copy_(state[name])
    for name, pairs in rows.items():
        every = tuple(map(list, zip(*pairs, strict=True)))
        for row, ckpt_row in pairs:
            columns, ckpt_columns = every if axes[name] == 2 else (..., ...)
            own[name][row, columns] = state[name][ckpt_row, ckpt_columns].to(own[name].dtype)
    report.log()
    return report


def _check_input_channels(model: LoadableModel, metadata: PlainMapping, ckpt: str) -> None:
    """Reject weights for other images, unless they are for RGB."""
    trained, own = len(metadata["dataset"]["mean"]) if metadata else 3, model.input_channels
    if trained not in (3, own):
        raise ConfigError(
            f"init.ckpt={ckpt} takes images of {trained} channels, and those of the data have {own}. Only weights for RGB can be adapted. Set "
            f"data.channels={trained}, or start from other weights."
        )


def imagenet_entry(backbone: LoadableBackbone, narrow: Narrow) -> str:
    """Return torchvision's name of the weights of ``init.ckpt=imagenet``.

    Raises:
        ConfigError: they are not narrowed, or none fit the backbone.
    """
    if narrow == "none":
        raise ConfigError(
            "init.ckpt=imagenet: these are weights of a backbone. Set backbone.weights=imagenet, or init.narrow=l1 to narrow them."
        )
    return backbone.imagenet(narrowed=True)[0]


def _read(model: LoadableModel, ckpt: str, narrow: Narrow) -> tuple[Weights, tuple[str, ...]]:
    """Read a weight file and its class names, which other libraries lack."""
    if ckpt == "imagenet":
        return Weights(read_published(imagenet_entry(model.backbone, narrow), "init.ckpt=imagenet")[0], {}), ()
    if is_published(ckpt):
        state, classes = read_published(ckpt, f"init.ckpt={ckpt}")
        return Weights(state, {}), classes
    weights = read_weights(ckpt)
    return weights, tuple(weights.metadata["dataset"]["classes"]) if weights.metadata else ()


def _match_pruned_widths_(
    model: LoadableModel, state: Mapping[str, Tensor], widths: Mapping[str, int], ckpt_num_classes: int, ckpt: str
) -> None:
    """Narrow a model in place to a pruned checkpoint's channel widths.

    The model keeps its own values and its own number of classes.

    Args:
        model: a model with the checkpoint's layers.
        state: the checkpoint's tensors.
        widths: output channels of its pruned convolutions, by module name.
        ckpt_num_classes: number of classes of the checkpoint.
        ckpt: the checkpoint's path, for messages.

    Raises:
        ConfigError: the model has other layers, or narrower ones.
    """
    own = model.state_dict()
    mismatched = sorted(own.keys() ^ state.keys()) + sorted(widths.keys() - dict(model.named_modules()).keys())
    mismatched += [
        name
        for name in own.keys() & state.keys()
        if not _can_narrow(own[name].shape, state[name].shape, model.num_classes, ckpt_num_classes)
    ]
    if mismatched:
        raise ConfigError(
            f"init.ckpt={ckpt} was pruned, and its layers are not narrower versions of this model's: {', '.join(mismatched[:5])}"
            f"{' and more' if len(mismatched) > 5 else ''}. Set the model and backbone options it was trained with, or resume "
            "that run unchanged: resume=<run> out=<new directory>."
        )
    narrowed = {}
    for name, tensor in own.items():
        is_pruned = name.rpartition(".")[0] in widths
        for dim, (size, ckpt_size) in enumerate(zip(tensor.shape, state[name].shape, strict=True)):
            is_class_dim = (size, ckpt_size) == (model.num_classes, ckpt_num_classes)
            if is_pruned or not is_class_dim:
                tensor = tensor.narrow(dim, 0, ckpt_size)
        narrowed[name] = tensor
    model.set_channel_widths_(narrowed)


def _can_narrow(shape: Sequence[int], ckpt_shape: Sequence[int], num_classes: int, ckpt_num_classes: int) -> bool:
    """Return True if ``shape`` can be narrowed to ``ckpt_shape``.

    Kernel sizes must be equal, while dimensions over classes may differ.
    """
    fits = all(
        ckpt_size <= size or (size, ckpt_size) == (num_classes, ckpt_num_classes)
        for size, ckpt_size in zip(shape, ckpt_shape, strict=False)
    )
    return len(shape) == len(ckpt_shape) and fits and shape[2:] == ckpt_shape[2:]


def _class_axes(model: LoadableModel) -> dict[str, int]:
    """Find the tensors outside the backbone whose first axes are classes.

    Returns:
        Name and number of these axes: one for the weights and biases of classifiers, two for transposed convolutions of class scores.
    """
    axes = {}
    for name, layer in model.named_modules():
        if (
            name.startswith(BACKBONE)
            or not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
            or layer.out_channels != model.num_classes
        ):
            continue
        if isinstance(layer, nn.ConvTranspose2d):
            axes |= {f"{name}.weight": 2} if layer.weight.shape[:2] == (model.num_classes,) * 2 else {}
        elif layer.bias is not None:
            axes |= {f"{name}.weight": 1, f"{name}.bias": 1}
    return axes


def _matching_rows(
    name: str,
    axes: int,
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    classes: tuple[str, ...] | None,
    ckpt_classes: tuple[str, ...],
    match: Match,
) -> list[tuple[int, int]]:
    """Pairs of matching rows in the model and in the checkpoint.

    Args:
        name: of a tensor over classes.
        axes: number of its first axes that are classes.
        own: the model's tensors.
        state: the checkpoint's tensors.
        classes: the model's class names.
        ckpt_classes: the checkpoint's class names.
        match: match rows by class name or by index.

    Returns:
        Row in the model and row in the checkpoint; empty if the layers have different shapes.
    """
    weight = name.rpartition(".")[0] + ".weight"
    if name not in state or weight not in state or state[weight].shape[axes:] != own[weight].shape[axes:]:
        return []
    if match == "index":
        return [(row, row) for row in range(min(len(state[name]), len(own[name])))]
    if len(state[name]) != len(ckpt_classes):
        return []
    return [(row, ckpt_classes.index(known)) for row, known in enumerate(classes or ()) if known in ckpt_classes]


def _class_note(classes: tuple[str, ...] | None, ckpt_classes: tuple[str, ...], match: Match) -> str:
    if match == "index" or classes is None:
        return "classes matched by position"
    new = [name for name in classes if name not in ckpt_classes]
    return f"{len(classes) - len(new)} of {len(classes)} classes matched by name" + (f"; new: {', '.join(new)}" if new else "")
