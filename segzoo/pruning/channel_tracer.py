"""Labels through every operation of a network: which of them turn out to be equal.

What has no label stays as wide as it is. An operation that is not known to leave channels apart is no guess: it is rejected, unless
all that it reads stays anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from segzoo.pruning.op_rules import ELEMENTWISE, KEPT, Labels, ParamDim, UntraceableOp, propagate

Row = Sequence[int]


class ChannelTracer(TorchDispatchMode):
    """Labels every tensor that a labeled one leads to, and joins the labels that must be equal.

    Args:
        model: on the meta device; to be run in this context.
        exclude: beginnings of names of convolutions whose output channels stay.

    Attributes:
        slots: the labels of each dimension of parameters and buffers.
        makers: the dimension of each convolution's weight that makes channels, in the order they ran.
    """

    def __init__(self, model: nn.Module, exclude: Collection[str] = ()):
        super().__init__()
        self.exclude = tuple(exclude)
        self.parent = [KEPT]
        self.of = WeakTensorKeyDictionary()
        self.dims: dict[ParamDim, tuple[int, ...]] = {}
        self.names = WeakTensorKeyDictionary()
        self.producers: list[ParamDim] = []
        self.inside: list[str] = []  # names of the modules that run
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.names[tensor] = name
            labels = [self._fresh(side) if dim < 2 else None for dim, side in enumerate(tensor.shape)]
            self.dims |= {ParamDim(name, dim): label for dim, label in enumerate(labels) if label is not None}
            self.of[tensor] = tuple(labels)
        for name, module in model.named_modules():
            module.register_forward_pre_hook(_describe_node(self.inside.append, name))
            module.register_forward_hook(_describe_node(self.inside.pop))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if any(tensor in self.of for tensor in tensors):
            for index, leaf in enumerate(tree_leaves(output)):
                if isinstance(leaf, Tensor):  # also one that was written in place: += joins too
                    try:
                        self.of[leaf] = self._after(str(func.overloadpacket), args, tensors, leaf, index)
                    except UntraceableOp as lost:
                        self.of[leaf] = self._left_whole(f"{func.overloadpacket}{self._place()} {lost}", tensors, leaf)
        return output

    def join(self, left: Row, right: Row) -> None:
        """Says that two rows of labels name the same channels."""
        for a, b in zip(left, right, strict=True):
            a, b = self.root(a), self.root(b)
            self.parent[max(a, b)] = min(a, b)

    def keep(self, row: Row | None) -> None:
        """Says that channels stay."""
        self.join(row or (), (KEPT,) * len(row or ()))

    def root(self, label: int) -> int:
        """The label that stands for all that are joined with this one."""
        while self.parent[label] != label:
            self.parent[label] = label = self.parent[self.parent[label]]
        return label

    def _fresh(self, count: int) -> tuple[int, ...]:
        first = len(self.parent)
        self.parent += range(first, first + count)
        return tuple(range(first, first + count))

    def _labels(self, tensor: Tensor) -> Labels:
        return self.of[tensor] if tensor in self.of else (None,) * tensor.dim()

    def _after(self, operation: str, args: Any, tensors: list[Tensor], output: Tensor, index: int) -> Labels:
        """The labels of one output of an operation."""
        kind = operation.removeprefix("aten.")
        if kind == "convolution":
            return self._convolved(args, output)
        if "batch_norm" in kind:
            for parameter in tensors[1:]:
                self._same([self._labels(tensors[0])[1], self._labels(parameter)[0]])
            return self._labels(tensors[0]) if index == 0 else (None,) * output.dim()
        if kind == "cat":
            return self._joined(args[0], args[1] % output.dim() if len(args) > 1 else 0)
        if kind in ("mm", "bmm"):
            return self._multiplied(*map(self._labels, tensors))
        if kind.rstrip("_") in ELEMENTWISE:
            return self._each(tensors, output)
        return propagate(kind, args, self._labels(tensors[0]), tensors[0].shape, output.shape)

    def _convolved(self, args: Any, output: Tensor) -> Labels:
        x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
        if groups != 1:
            raise UntraceableOp("is a grouped convolution")
        if weight not in self.names:
            raise UntraceableOp("takes a weight that is no parameter itself")
        read, written = (0, 1) if transposed else (1, 0)
        labels = self._labels(weight)
        maker = ParamDim(self.names[weight], written)
        self.producers += [] if maker in self.producers else [maker]  # a layer may run twice
        if maker.name.startswith(self.exclude):
            self.keep(labels[written])
        self._same([labels[read], self._labels(x)[1]])
        if bias is not None:
            self._same([labels[written], self._labels(bias)[0]])
        return (None, labels[written], *[None] * (output.dim() - 2))

    def _joined(self, parts: Sequence[Tensor], dim: int) -> Labels:
        labels = [self._labels(part) for part in parts]
        result: list[tuple[int, ...] | None] = []
        for here in range(parts[0].dim()):
            rows = [label[here] for label in labels]
            if here == dim:
                told = any(row is not None for row in rows)
                filled = [row or (KEPT,) * part.shape[dim] for row, part in zip(rows, parts, strict=True)]
                result.append(sum(filled, ()) if told else None)
            else:
                result.append(self._same(rows))
        return tuple(result)

    def _multiplied(self, left: Labels, right: Labels) -> Labels:
        """Of matrices of pixels and channels; a weight between two rows of channels would have to be a maker."""
        made = self._made() | {KEPT}
        if any(self.root(label) not in made for row in (*left, *right) for label in row or ()):
            raise UntraceableOp("multiplies by a parameter")
        self._same([left[-1], right[-2]])
        batch = [self._same([left[0], right[0]])] if len(left) > 2 else []
        return (*batch, *left[-2:-1], *right[-1:])

    def _each(self, tensors: Sequence[Tensor], output: Tensor) -> Labels:
        """Of sums, products and activations: dimensions of the same length, counted from the last, are the same."""
        result = []
        for back in range(1, output.dim() + 1):
            here = [t for t in tensors if t.dim() >= back and t.shape[-back] == output.shape[-back]]
            alone = output.shape[-back] == 1  # one of one is as good as a number
            rows = [self._labels(t)[-back] for t in here]
            result.append(self._same([row for row in rows if row is not None] if alone else rows))
        return tuple(reversed(result))

    def _same(self, rows: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
        """Rows that must be the same; they stay where one of them has no labels."""
        told = [row for row in rows if row is not None]
        for row in told[1:]:
            self.join(told[0], row)
        if told and len(told) < len(rows):
            self.keep(told[0])
        return told[0] if told else None

    def _made(self) -> set[int]:
        """The channels that convolutions made up to here and that may go."""
        return {self.root(label) for maker in self.producers for label in self.dims[maker]} - {KEPT}

    def _left_whole(self, words: str, tensors: Sequence[Tensor], output: Tensor) -> Labels:
        """Leaves parameters and what stays anyway as they are; NotImplementedError if channels that may go would be lost."""
        rows = [row for tensor in tensors for row in self._labels(tensor) if row]
        lost = {self.root(label) for row in rows for label in row} & self._made()
        owners: list[str] = []
        for maker in self.producers:
            held = lost & {self.root(label) for label in self.dims[maker]}
            owners += [maker.name.removesuffix(".weight")] if held else []
            lost -= held
        if owners:
            raise NotImplementedError(
                f"{words}, so the channels of {', '.join(owners)} cannot be followed through it; "
                f"pruner.exclude=[{','.join(owners)}] keeps them as they are"
            )
        for row in rows:
            self.keep(row)
        return (None,) * output.dim()

    def _place(self) -> str:
        return f" in {self.inside[-1]}" if self.inside and self.inside[-1] else ""


def _describe_node(tell: Callable, *words: str) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        tell(*words)

    return hook
