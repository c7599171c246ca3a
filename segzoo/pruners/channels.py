"""Which channels of which layers must go together: followed through every operation of a network, by arithmetic on the meta device.

Each dimension of each parameter gets one label a position. A convolution says that its input's channels are those its weight reads;
a sum, that its terms' channels are the same; a join, that they stand one after another. What the labels end up equal to is one channel
of the network, and it can only be removed everywhere at once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from segzoo.layers.conv import Score

aten: Any = torch.ops.aten
Labels = tuple[tuple[int, ...] | None, ...]  # of a tensor: one label a position, for each dimension that holds channels
KEPT = 0  # the label of what may never be removed: colours and classes
VIEWS = (aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze)


class Slot(NamedTuple):
    """A dimension of a parameter or buffer."""

    name: str
    dim: int


class Channels(NamedTuple):
    """The channels of a network.

    Attributes:
        slots: the channel that each position of each dimension holds; 0 is what must stay.
        blocks: channels that play the same part, in order: those of one layer, or of all the layers that a sum ties together.
        makers: the dimension of each convolution's weight that makes channels.
    """

    slots: dict[Slot, tuple[int, ...]]
    blocks: list[tuple[int, ...]]
    makers: list[Slot]

    def filters(self, block: Sequence[int]) -> list[Slot]:
        """The output dimensions of convolutions' weights that make the channels of a block."""
        wanted = set(block)
        return [slot for slot in self.makers if wanted & set(self.slots[slot])]


@torch.no_grad()
def channels_of(model: nn.Module, size: int = 128) -> Channels:
    """Follows the channels of a model, training-only heads included.

    Args:
        model: a segmentation model on any device; a copy on the meta device is run.
        size: side in pixels of the picture that is followed.

    Raises:
        NotImplementedError: an operation mixes channels in a way that cannot be followed, such as a grouped convolution.
    """
    blank = copy.deepcopy(model).to("meta").eval()
    blank.training = True  # the heads of training answer, while norms and dropout stay as in evaluation
    with _Follower(blank) as follower:
        picture = torch.empty(1, 3, size, size, device="meta")
        answers = tree_leaves(tuple(blank(picture)))
    for logits in answers:
        follower.join(follower.of[logits][1] or (), (KEPT,) * logits.shape[1])
    for name, layer in blank.named_modules():
        if isinstance(layer, Score):
            classes = follower.slots[Slot(f"{name}.weight", 0)]
            follower.join(classes, (KEPT,) * len(classes))
    return follower.found()


class _Follower(TorchDispatchMode):
    """Labels every tensor that a labelled one leads to, and joins the labels that must be equal."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.parent = [KEPT]
        self.of = WeakTensorKeyDictionary()
        self.slots: dict[Slot, tuple[int, ...]] = {}
        self.names = WeakTensorKeyDictionary()
        self.makers: list[Slot] = []
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            self.names[tensor] = name
            labels = [self._fresh(side) if dim < 2 else None for dim, side in enumerate(tensor.shape)]
            self.slots |= {Slot(name, dim): label for dim, label in enumerate(labels) if label is not None}
            self.of[tensor] = tuple(labels)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        if any(tensor in self.of for tensor in tensors):
            for index, leaf in enumerate(tree_leaves(output)):
                if isinstance(leaf, Tensor):  # also one that was written in place: += joins too
                    self.of[leaf] = self._after(func.overloadpacket, args, tensors, leaf, index)
        return output

    def join(self, left: Sequence[int], right: Sequence[int]) -> None:
        """Says that two rows of labels name the same channels."""
        for a, b in zip(left, right, strict=True):
            a, b = self._root(a), self._root(b)
            self.parent[max(a, b)] = min(a, b)

    def found(self) -> Channels:
        """Every slot by its channels, and the channels in blocks."""
        slots = {slot: tuple(map(self._root, labels)) for slot, labels in self.slots.items()}
        parts: dict[int, list[Slot]] = {}
        for slot, held in slots.items():
            for channel in dict.fromkeys(held):
                parts.setdefault(channel, []).append(slot)
        made = {channel for maker in self.makers for channel in slots[maker]} - {KEPT}
        blocks: dict[tuple[Slot, ...], list[int]] = {}
        for channel, where in parts.items():
            if channel in made:  # not so in layers that never run, such as those of branches left out
                blocks.setdefault(tuple(where), []).append(channel)
        return Channels(slots, [tuple(block) for block in blocks.values()], self.makers)

    def _fresh(self, count: int) -> tuple[int, ...]:
        first = len(self.parent)
        self.parent += range(first, first + count)
        return tuple(range(first, first + count))

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = label = self.parent[self.parent[label]]
        return label

    def _labels(self, tensor: Tensor) -> Labels:
        return self.of[tensor] if tensor in self.of else (None,) * tensor.dim()

    def _after(self, operation: Any, args: Any, tensors: list[Tensor], output: Tensor, index: int) -> Labels:
        """The labels of one output of an operation."""
        if operation is aten.convolution:
            return self._convolved(args)
        if "batch_norm" in str(operation):
            for parameter in tensors[1:]:
                self.join(self._labels(tensors[0])[1] or (), self._labels(parameter)[0] or ())
            return self._labels(tensors[0]) if index == 0 else (None,) * output.dim()
        if operation is aten.cat:
            return self._joined(args[0], args[1] % output.dim() if len(args) > 1 else 0)
        if operation in (aten.mm, aten.bmm):
            left, right = map(self._labels, tensors)
            return (*left[:-1], right[-1])
        if operation in (aten.t, aten.transpose, aten.permute):
            return self._turned(operation, args, self._labels(tensors[0]))
        if operation in VIEWS:
            return _viewed(self._labels(tensors[0]), tensors[0].shape, output.shape)
        if operation in (aten.mean, aten.sum, aten.amax) and output.dim() < tensors[0].dim():
            gone = {dim % tensors[0].dim() for dim in args[1]}
            return tuple(label for dim, label in enumerate(self._labels(tensors[0])) if dim not in gone)
        return self._elementwise(tensors, output)

    def _convolved(self, args: Any) -> Labels:
        x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
        if groups != 1:
            raise NotImplementedError("grouped convolutions cannot be followed")
        read, written = (0, 1) if transposed else (1, 0)
        labels = self._labels(weight)
        maker = Slot(self.names[weight], written)
        self.makers += [] if maker in self.makers else [maker]  # a layer may run twice
        self.join(self._labels(x)[1] or (KEPT,) * x.shape[1], labels[read] or ())
        if bias is not None:
            self.join(labels[written] or (), self._labels(bias)[0] or ())
        return (None, labels[written], None, None)

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
                result.append(self._same([row for row in rows if row is not None]))
        return tuple(result)

    def _turned(self, operation: Any, args: Any, labels: Labels) -> Labels:
        order = list(range(len(labels)))
        if operation is aten.permute:
            order = [dim % len(labels) for dim in args[1]]
        else:
            a, b = (0, 1) if operation is aten.t else (dim % len(labels) for dim in args[1:3])
            order[a], order[b] = order[b], order[a]
        return tuple(labels[dim] for dim in order)

    def _elementwise(self, tensors: Sequence[Tensor], output: Tensor) -> Labels:
        """Of sums, products, activations, pooling and growing: dimensions of the same length, counted from the last, are the same."""
        result = []
        for back in range(1, output.dim() + 1):
            here = [t for t in tensors if t.dim() >= back and t.shape[-back] == output.shape[-back]]
            result.append(self._same([row for t in here if (row := self._labels(t)[-back]) is not None]))
        return tuple(reversed(result))

    def _same(self, rows: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
        for row in rows[1:]:
            self.join(rows[0], row)
        return rows[0] if rows else None


def _viewed(labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Labels through a change of shape that leaves the labelled dimensions whole."""
    old = [(side, label) for side, label in zip(before, labels, strict=True) if side != 1]
    result: list[tuple[int, ...] | None] = []
    for side in after:
        if side == 1:
            result.append(None)
            continue
        length, label = old.pop(0)
        if length == side:
            result.append(label)
            continue
        while length < side:  # merged
            more, other = old.pop(0)
            length, label = length * more, label or other
        if length > side:  # split: what is left waits for the next dimension
            old.insert(0, (length // side, None))
        if label is not None:
            raise NotImplementedError(f"channels are lost where a map of {tuple(before)} becomes {tuple(after)}")
        result.append(None)
    return tuple(result)
