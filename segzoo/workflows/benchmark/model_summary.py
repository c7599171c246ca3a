"""Layer table of a model: kernels, outputs, parameters, multiply-adds and receptive fields.

It runs on the meta device, so any input size is free. Receptive fields are propagated through every tensor operation, including those
between layers (Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from segzoo.layers.parameters import meta_copy
from segzoo.registry import Range
from segzoo.reporting.tables import markdown_table
from segzoo.types import PlainDict

aten = torch.ops.aten
GLOBAL_OPS = (aten.bmm, aten.mm, aten.index, aten.mean)  # global or pyramid pooling: every output sees the whole image


class ReceptiveField(NamedTuple):
    """Receptive field of the pixels of a feature map."""

    jump: float  # distance of neighboring pixels, in image pixels
    size: float  # height and width of the receptive field, in image pixels


class Row(NamedTuple):
    """One layer of the table."""

    name: str
    kind: str
    window: str  # kernel size, stride and dilation
    output: tuple[int, ...]  # (channels, height, width)
    params: int
    macs: int  # multiply-adds of convolutions and linear layers for one image
    field: float  # size of the receptive field in pixels, infinite for the whole image


def describe(
    model: nn.Module, *, hw: tuple[Annotated[int, Range(32, 65536)], Annotated[int, Range(32, 65536)]] = (512, 1024)
) -> list[Row]:
    """List the layers of a model in execution order.

    The model runs on one image in evaluation mode.

    Args:
        model: the model, on the meta device.
        hw: height and width of the image in pixels.

    Raises:
        ValueError: if the model rejects images of that size.
    """
    x = torch.empty(1, getattr(model, "input_channels", 3), *hw, device="meta")
    rows: list[Row] = []
    with ExitStack() as hooks, torch.no_grad(), _ReceptiveFields(x) as fields:
        for name, layer in _layers(model):
            hooks.callback(layer.register_forward_hook(_recorder(name, rows, fields)).remove)
        model.eval()(x)
    return rows


def totals(rows: list[Row]) -> PlainDict:
    """Sum up the layers of a model.

    Returns:
        ``params``, ``gmacs`` (10^9 multiply-adds) and ``receptive_field``, that of the logits in pixels or ``image`` for the whole image.
    """
    return {
        "params": sum(row.params for row in rows),
        "gmacs": sum(row.macs for row in rows) / 1e9,
        "receptive_field": _pixels(max(row.field for row in rows)),
    }


def model_complexity(model: nn.Module, hw: tuple[int, int]) -> PlainDict:
    """Compute ``totals`` of a network at its current channel widths.

    The network may be pruned and on any device. It is left unchanged.
    """
    return totals(describe(meta_copy(model), hw=hw))


def _pixels(field: float) -> int | str:
    return "image" if math.isinf(field) else round(field)


def summary_table(rows: list[Row], before: list[Row] | None = None) -> str:
    """Format layers as a Markdown table with a total.

    Args:
        rows: the layers of the network, from ``describe``.
        before: the same layers before pruning. Their channels, parameters and multiply-adds become additional columns.
    """
    columns = ("layer", "kind", "kernel/stride/dilation", "output", "parameters", "MMACs", "receptive field")
    lines = [_cells(row) for row in rows]
    total = totals(rows)
    lines.append(("total", "", "", "", f"{total['params']:,}", f"{1000 * total['gmacs']:,.1f}", total["receptive_field"]))
    if before is not None:
        columns += ("channels before", "parameters before", "MMACs before")
        total_before = totals(before)
        lines_before: list[tuple[object, ...]] = [(row.output[0], *_counts(row)) for row in before]
        lines_before.append(("", f"{total_before['params']:,}", f"{1000 * total_before['gmacs']:,.1f}"))
        lines = [(*line, *line_before) for line, line_before in zip(lines, lines_before, strict=True)]
    return markdown_table(columns, lines)


def _cells(row: Row) -> tuple[object, ...]:
    return (row.name, row.kind, row.window, "x".join(map(str, row.output)), *_counts(row), _pixels(row.field))


def _counts(row: Row) -> tuple[str, str]:
    """Format parameters and 10^6 multiply-adds, empty if zero."""
    return f"{row.params:,}" if row.params else "", f"{row.macs / 1e6:,.1f}" if row.macs else ""


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Iterate over modules that compute something in evaluation.

    They are leaves, and modules with parameters of their own, such as timm's batch norm with its activation. Training-only heads are
    included here, but they do not run in evaluation and so get no row.
    """
    empty = nn.Identity | nn.Dropout | nn.ModuleDict | nn.ModuleList | nn.Sequential
    for name, layer in model.named_modules():
        if list(layer.parameters(recurse=False)) or not (list(layer.children()) or isinstance(layer, empty)):
            yield name, layer


def _recorder(name: str, rows: list[Row], fields: _ReceptiveFields) -> Callable[[nn.Module, object, object], None]:
    """Create a forward hook that adds the layer to the rows."""

    def record(layer: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):  # pyramid pooling returns several maps, and the layers that use them have rows
            rows.append(_row(name, layer, output, fields.of[output]))

    return record


def _row(name: str, layer: nn.Module, output: Tensor, field: ReceptiveField) -> Row:
    params = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
    macs = 0
    if isinstance(layer, nn.ConvTranspose2d):
        macs = layer.weight.numel() * output.shape[-2] * output.shape[-1] // math.prod(layer.stride)
    elif isinstance(layer, nn.Conv2d):
        macs = layer.weight.numel() * output.shape[-2] * output.shape[-1]
    elif isinstance(layer, nn.Linear):
        macs = layer.weight.numel() * output.numel() // layer.out_features
    return Row(name, type(layer).__name__, _window(layer), tuple(output.shape[1:]), params, macs, field.size)


def _window(layer: nn.Module) -> str:
    """Format kernel size, stride and dilation."""
    kernel = getattr(layer, "kernel_size", None)
    if kernel is None:
        return ""
    stride, dilation = layer.stride, getattr(layer, "dilation", 1)
    return "/".join(str(value[0] if isinstance(value, tuple) else value) for value in (kernel, stride, dilation))


class _ReceptiveFields(TorchDispatchMode):
    """Propagate receptive fields from the image through every operation."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.of = WeakTensorKeyDictionary()
        self.of[image] = ReceptiveField(1.0, 1.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        inputs = [self.of[leaf] for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf in self.of]
        if inputs:
            union = ReceptiveField(max(field.jump for field in inputs), max(field.size for field in inputs))
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor):
                    self.of[leaf] = _output_field(func.overloadpacket, args, leaf, union)
        return output


def _output_field(operation: object, args: Sequence[Any], output: Tensor, field: ReceptiveField) -> ReceptiveField:
    """Compute the receptive field of an output from that of the inputs."""
    jump, size = field
    if operation is aten.convolution:  # (input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        kernel, stride, dilation, transposed = args[1].shape[-1], args[3][-1], args[5][-1], args[6]
        if transposed:
            return ReceptiveField(jump / stride, size + (math.ceil(kernel / stride) - 1) * jump)
        return ReceptiveField(jump * stride, size + (kernel - 1) * dilation * jump)
    if operation in (aten.max_pool2d_with_indices, aten.avg_pool2d):  # (input, kernel_size, stride, ...)
        kernel = args[1][-1]
        stride = args[2][-1] if len(args) > 2 and args[2] else kernel
        return ReceptiveField(jump * stride, size + (kernel - 1) * jump)
    if operation is aten.upsample_bilinear2d and args[0].shape[-1] != output.shape[-1]:  # (input, output_size, align_corners, ...)
        corner = int(bool(args[2]) and output.shape[-1] > 1)
        return ReceptiveField(jump * (args[0].shape[-1] - corner) / (output.shape[-1] - corner), size + jump)
    return ReceptiveField(jump, math.inf) if operation in GLOBAL_OPS else field
