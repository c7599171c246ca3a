"""Channel labels, traced through every operation of a model.

Dimensions without labels keep their size. An operation that is not known to keep channels apart is rejected, unless everything it reads
is kept anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from segzoo.messages import format_override
from segzoo.pruning.op_rules import ELEMENTWISE, KEPT, Labels, ParamDim, UntraceableOp, propagate
from segzoo.types import PlainDict, PlainMapping

Row = Sequence[int]


class ChannelTracer(TorchDispatchMode):
    """Labels the channels of every tensor that a model computes.

    Labels that must be equal are joined.

    Args:
        model: on the meta device; run it inside this context.
        exclude: prefixes of the names of convolutions whose output channels are kept.

    Attributes:
        dims: the labels of each dimension of parameters and buffers.
        labels: the labels of each tensor.
        producers: the output dimension of each convolution's weight, in execution order.
    """

    def __init__(self, model: nn.Module, exclude: Collection[str] = ()):
        super().__init__()
        self.exclude = tuple(exclude)
        self.parent = [KEPT]  # disjoint sets of labels; the smallest label of a set is its root
        self.labels = WeakTensorKeyDictionary()
        self.dims: dict[ParamDim, tuple[int, ...]] = {}
        self.names = WeakTensorKeyDictionary()
        self.producers: list[ParamDim] = []
        self.running: list[str] = []  # names of the modules whose forward is running, innermost last
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.names[tensor] = name
            rows = [self._new_labels(size) if dim < 2 else None for dim, size in enumerate(tensor.shape)]
            self.dims |= {ParamDim(name, dim): row for dim, row in enumerate(rows) if row is not None}
            self.labels[tensor] = tuple(rows)
        for name, module in model.named_modules():
            module.register_forward_pre_hook(_hook(self.running.append, name))
            module.register_forward_hook(_hook(self.running.pop))

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_batch_norm = func.overloadpacket is torch.ops.aten.native_batch_norm
        output = _batch_norm_output(args[0]) if is_batch_norm else func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if any(tensor in self.labels for tensor in tensors):
            name, arguments = str(func.overloadpacket), _named_arguments(func, args, kwargs or {})
            for index, leaf in enumerate(tree_leaves(output)):
                if isinstance(leaf, Tensor):  # the output of an in-place operation such as += joins labels too
                    try:
                        self.labels[leaf] = self._output_labels(name.removeprefix("aten."), arguments, tensors, leaf, index)
                    except UntraceableOp as error:
                        module = f" in {self.running[-1]}" if self.running and self.running[-1] else ""
                        self.labels[leaf] = self._keep_inputs(f"{name}{module} {error}", tensors, leaf)
        return output

    def join(self, left: Row, right: Row) -> None:
        """Record that two rows of labels are the same channels."""
        for a, b in zip(left, right, strict=True):
            a, b = self.root(a), self.root(b)
            self.parent[max(a, b)] = min(a, b)

    def keep(self, row: Row | None) -> None:
        """Record that channels must not be removed."""
        self.join(row or (), (KEPT,) * len(row or ()))

    def root(self, label: int) -> int:
        """The representative of all labels joined with this one."""
        while self.parent[label] != label:
            self.parent[label] = label = self.parent[self.parent[label]]
        return label

    def _new_labels(self, count: int) -> tuple[int, ...]:
        first = len(self.parent)
        self.parent += range(first, first + count)
        return tuple(range(first, first + count))

    def _labels_of(self, tensor: Tensor) -> Labels:
        return self.labels[tensor] if tensor in self.labels else (None,) * tensor.dim()

    def _output_labels(self, kind: str, arguments: PlainMapping, tensors: list[Tensor], output: Tensor, index: int) -> Labels:
        """The labels of one output of an operation."""
        if kind == "convolution":
            return self._convolution(arguments, output)
        if "batch_norm" in kind:
            for parameter in tensors[1:]:
                self._join_all([self._labels_of(tensors[0])[1], self._labels_of(parameter)[0]])
            return self._labels_of(tensors[0]) if index == 0 else (None,) * output.dim()
        if kind == "cat":
            return self._concatenation(arguments["tensors"], arguments["dim"] % output.dim())
        if kind in ("mm", "bmm"):
            return self._matmul(*map(self._labels_of, tensors))
        if kind.rstrip("_") in ELEMENTWISE:
            return self._elementwise(tensors, output)
        return propagate(kind, arguments, self._labels_of(tensors[0]), tensors[0].shape, output.shape)

    def _convolution(self, arguments: PlainMapping, output: Tensor) -> Labels:
        if arguments["groups"] != 1:
            raise UntraceableOp("is a grouped convolution")
        weight, bias = arguments["weight"], arguments["bias"]
        if weight not in self.names:
            raise UntraceableOp("has a weight that is not a parameter")
        in_dim, out_dim = (0, 1) if arguments["transposed"] else (1, 0)
        labels = self._labels_of(weight)
        producer = ParamDim(self.names[weight], out_dim)
        self.producers += [] if producer in self.producers else [producer]  # a layer may run twice
        if producer.name.startswith(self.exclude):
            self.keep(labels[out_dim])
        self._join_all([labels[in_dim], self._labels_of(arguments["input"])[1]])
        if bias is not None:
            self._join_all([labels[out_dim], self._labels_of(bias)[0]])
        return (None, labels[out_dim], *[None] * (output.dim() - 2))

    def _concatenation(self, tensors: Sequence[Tensor], dim: int) -> Labels:
        labels = [self._labels_of(tensor) for tensor in tensors]
        result: list[tuple[int, ...] | None] = []
        for other in range(tensors[0].dim()):
            rows = [tensor_labels[other] for tensor_labels in labels]
            if other != dim:
                result.append(self._join_all(rows))
            elif all(row is None for row in rows):
                result.append(None)
            else:
                filled = [row or (KEPT,) * tensor.shape[dim] for row, tensor in zip(rows, tensors, strict=True)]
                result.append(sum(filled, ()))
        return tuple(result)

    def _matmul(self, left: Labels, right: Labels) -> Labels:
        """Labels of a product of feature maps, such as attention.

        A parameter as a factor would be a producer of channels, which only convolutions are.
        """
        produced = self._produced() | {KEPT}
        if any(self.root(label) not in produced for row in (*left, *right) for label in row or ()):
            raise UntraceableOp("multiplies by a parameter")
        self._join_all([left[-1], right[-2]])
        batch = [self._join_all([left[0], right[0]])] if len(left) > 2 else []
        return (*batch, *left[-2:-1], *right[-1:])

    def _elementwise(self, tensors: Sequence[Tensor], output: Tensor) -> Labels:
        """Labels of sums, products and activations, with broadcasting from the last dimension."""
        result = []
        for back in range(1, output.dim() + 1):
            matching = [t for t in tensors if t.dim() >= back and t.shape[-back] == output.shape[-back]]
            rows = [self._labels_of(t)[-back] for t in matching]
            if output.shape[-back] == 1:  # a single value is like a scalar: it keeps nothing
                rows = [row for row in rows if row is not None]
            result.append(self._join_all(rows))
        return tuple(reversed(result))

    def _join_all(self, rows: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
        """Join rows that must be equal.

        If one of them has no labels, the others are kept.
        """
        labeled = [row for row in rows if row is not None]
        for row in labeled[1:]:
            self.join(labeled[0], row)
        if labeled and len(labeled) < len(rows):
            self.keep(labeled[0])
        return labeled[0] if labeled else None

    def _produced(self) -> set[int]:
        """The prunable channels that the convolutions so far produce."""
        return {self.root(label) for producer in self.producers for label in self.dims[producer]} - {KEPT}

    def _keep_inputs(self, problem: str, tensors: Sequence[Tensor], output: Tensor) -> Labels:
        """Keep every input of an untraceable operation.

        Raises:
            NotImplementedError: an input has prunable channels, which would then be kept without the user's consent.
        """
        rows = [row for tensor in tensors for row in self._labels_of(tensor) if row]
        lost = {self.root(label) for row in rows for label in row} & self._produced()
        layers: list[str] = []
        for producer in self.producers:
            channels = lost & {self.root(label) for label in self.dims[producer]}
            layers += [producer.name.removesuffix(".weight")] if channels else []
            lost -= channels
        if layers:
            raise NotImplementedError(
                f"{problem}, so the channels of {', '.join(layers)} cannot be traced through it; "
                f"{format_override('pruner.exclude', layers)} keeps them as they are"
            )
        for row in rows:
            self.keep(row)
        return (None,) * output.dim()


def _batch_norm_output(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the output of batch norm, and its unused statistics.

    On the meta device, PyTorch decomposes every batch norm into some twenty operations.
    """
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


def _named_arguments(func: OpOverload, args: Sequence[object], kwargs: PlainMapping) -> PlainDict:
    """Arguments of an operation by their schema names, defaults included."""
    schema = func._schema.arguments
    given = dict(zip((argument.name for argument in schema), args, strict=False)) | dict(kwargs)
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}


def _hook(function: Callable[..., object], *arguments: str) -> Callable[..., None]:
    """A forward hook that calls a function with fixed arguments."""

    def hook(*_: object) -> None:
        function(*arguments)

    return hook
