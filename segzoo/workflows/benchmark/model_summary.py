"""What a model is made of: every layer with its window, output, parameters, operations and receptive field.

Runs on the meta device, so any size costs nothing. The receptive field is followed through every tensor operation, also those
between layers (Araujo et al., Computing Receptive Fields of Convolutional Neural Networks, Distill 2019).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from segzoo.registry import Range
from segzoo.reporting.tables import markdown_table

aten: Any = torch.ops.aten
WHOLE = (aten.bmm, aten.mm, aten.index, aten.mean)  # pooling over the map: every pixel after it has seen the whole image


class ReceptiveField(NamedTuple):
    """How far a pixel of a map sees: the image pixels between two of its neighbors, and the side of the window it sees."""

    jump: float
    size: float


class Row(NamedTuple):
    """One layer. Sizes are (channels, height, width); ``macs`` are multiply-adds of convolutions for one image."""

    name: str
    kind: str
    window: str
    output: tuple[int, ...]
    params: int
    macs: int
    field: float


def describe(
    model: nn.Module, *, hw: tuple[Annotated[int, Range(32, None)], Annotated[int, Range(32, None)]] = (512, 1024)
) -> list[Row]:
    """The layers of a model in the order they run, for one image in evaluation mode.

    Args:
        model: on the meta device.
        hw: height and width of the image in pixels.

    Raises:
        ValueError: the model rejects images of that size.
    """
    x = torch.empty(1, 3, *hw, device="meta")
    rows: list[Row] = []
    with ExitStack() as hooks, torch.no_grad(), _Fields(x) as fields:
        for name, layer in _layers(model):
            hooks.callback(layer.register_forward_hook(_recorder(name, rows, fields)).remove)
        model.eval()(x)
    return rows


def totals(rows: list[Row]) -> dict[str, Any]:
    """Parameters, 10^9 multiply-adds, and the receptive field of the scores in pixels (``image``: all of it), as results hold them."""
    return {
        "params": sum(row.params for row in rows),
        "gmacs": sum(row.macs for row in rows) / 1e9,
        "receptive_field": _pixels(max(row.field for row in rows)),
    }


def model_complexity(model: nn.Module, hw: tuple[int, int]) -> dict[str, Any]:
    """``sums`` of a network as it is, with the channels that pruning has left it; on any device, and left as it is."""
    return totals(describe(copy.deepcopy(model).to("meta"), hw=hw))


def _pixels(field: float) -> int | str:
    return "image" if math.isinf(field) else round(field)


def summary_table(rows: list[Row], before: list[Row] | None = None) -> str:
    """The rows as a Markdown table, with a line of sums.

    Args:
        rows: what ``describe`` found.
        before: the same of the network before it was pruned, layer by layer; its widths, parameters and operations are then shown too.
    """
    columns = ("layer", "kind", "kernel/stride/dilation", "output", "parameters", "MMACs", "receptive field")
    lines = [_cells(row) for row in rows]
    total = totals(rows)
    lines.append(("sum", "", "", "", f"{total['params']:,}", f"{1000 * total['gmacs']:,.1f}", total["receptive_field"]))
    if before is not None:
        columns += ("channels before", "parameters before", "MMACs before")
        first = totals(before)
        past: list[tuple[Any, ...]] = [(row.output[0], *_counts(row)) for row in before]
        past.append(("", f"{first['params']:,}", f"{1000 * first['gmacs']:,.1f}"))
        lines = [(*line, *more) for line, more in zip(lines, past, strict=True)]
    return markdown_table(columns, lines)


def _cells(row: Row) -> tuple[Any, ...]:
    return (row.name, row.kind, row.window, "x".join(map(str, row.output)), *_counts(row), _pixels(row.field))


def _counts(row: Row) -> tuple[str, str]:
    """Parameters and 10^6 multiply-adds of a layer, empty where there are none."""
    return f"{row.params:,}" if row.params else "", f"{row.macs / 1e6:,.1f}" if row.macs else ""


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules without parts of their own, training-only heads and what does nothing in evaluation left out."""
    for name, layer in model.named_modules():
        if not list(layer.children()) and not isinstance(layer, nn.Identity | nn.Dropout | nn.ModuleDict | nn.ModuleList):
            yield name, layer


def _recorder(name: str, rows: list[Row], fields: _Fields) -> Callable[[nn.Module, Any, Any], None]:
    def record(layer: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):  # a pyramid answers several maps; what reads them has rows of its own
            rows.append(_row(name, layer, output, fields.of[output]))

    return record


def _row(name: str, layer: nn.Module, output: Tensor, field: ReceptiveField) -> Row:
    params = sum(parameter.numel() for parameter in layer.parameters())
    macs = 0
    if isinstance(layer, nn.ConvTranspose2d):
        macs = layer.weight.numel() * output.shape[-2] * output.shape[-1] // math.prod(layer.stride)
    elif isinstance(layer, nn.Conv2d):
        macs = layer.weight.numel() * output.shape[-2] * output.shape[-1]
    return Row(name, type(layer).__name__, _window(layer), tuple(output.shape[1:]), params, macs, field.size)


def _window(layer: nn.Module) -> str:
    kernel = getattr(layer, "kernel_size", None)
    if kernel is None:
        return ""
    stride, dilation = layer.stride, getattr(layer, "dilation", 1)
    return "/".join(str(value[0] if isinstance(value, tuple) else value) for value in (kernel, stride, dilation))


class _Fields(TorchDispatchMode):
    """Follows the receptive field from the image through every operation."""

    def __init__(self, picture: Tensor):
        super().__init__()
        self.of = WeakTensorKeyDictionary()
        self.of[picture] = ReceptiveField(1.0, 1.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        seen = [self.of[leaf] for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf in self.of]
        if seen:
            joint = ReceptiveField(max(field.jump for field in seen), max(field.size for field in seen))
            for leaf in tree_leaves(output):
                if isinstance(leaf, Tensor):
                    self.of[leaf] = _after(func.overloadpacket, args, leaf, joint)
        return output


def _after(operation: Any, args: Any, output: Tensor, field: ReceptiveField) -> ReceptiveField:
    """The field of an operation's output, from that of its inputs."""
    jump, side = field
    if operation is aten.convolution:
        kernel, step, dilation, transposed = args[1].shape[-1], args[3][-1], args[5][-1], args[6]
        if transposed:
            return ReceptiveField(jump / step, side + (math.ceil(kernel / step) - 1) * jump)
        return ReceptiveField(jump * step, side + (kernel - 1) * dilation * jump)
    if operation in (aten.max_pool2d_with_indices, aten.avg_pool2d):
        kernel = args[1][-1]
        step = args[2][-1] if len(args) > 2 and args[2] else kernel
        return ReceptiveField(jump * step, side + (kernel - 1) * jump)
    if operation is aten.upsample_bilinear2d and args[0].shape[-1] != output.shape[-1]:
        corner = int(bool(args[2]) and output.shape[-1] > 1)
        return ReceptiveField(jump * (args[0].shape[-1] - corner) / (output.shape[-1] - corner), side + jump)
    return ReceptiveField(jump, math.inf) if operation in WHOLE else field
