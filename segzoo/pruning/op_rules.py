"""Labels of channels, and what an operation that reads one tensor does to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

Labels = tuple[tuple[int, ...] | None, ...]  # of a tensor: one label a position, for each dimension that holds channels
KEPT = 0  # the label of what may never be removed: colors and classes


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# operations by kind, without the underscore of those that write in place
ELEMENTWISE = _words(
    "abs add addcdiv addcmul alias bernoulli celu clamp clamp_max clamp_min clone contiguous copy cos detach div elu empty_like erf exp "
    "expand expm1 fill floor full_like gelu hardsigmoid hardswish hardtanh leaky_relu lerp lift_fresh log log1p log_sigmoid_forward "
    "masked_fill maximum minimum mish mul native_dropout neg ones_like _prelu_kernel pow rand_like randn_like reciprocal relu round "
    "rsqrt rsub sigmoid sign silu sin softplus sqrt square sub tan tanh threshold _to_copy where zero zeros_like"
)
SAME_CHANNELS = _words(  # touch what stands behind the first two dimensions, and nothing else
    "_adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d max_pool2d_with_indices "
    "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "constant_pad_nd reflection_pad2d replication_pad2d"
)
VIEWS = _words("view _unsafe_view reshape unsqueeze squeeze _reshape_alias")
PERMUTES = _words("t transpose permute")
SELECTS = _words("index index_select slice select unbind split split_with_sizes")
REDUCTIONS = _words("sum mean amax amin")
SPLITS = _words("_softmax _log_softmax")


class ParamDim(NamedTuple):
    """A dimension of a parameter or buffer."""

    name: str
    dim: int


class UntraceableOp(Exception):
    """An operation after which nobody can say which channel is which; the message goes on from the operation's name."""


def propagate(kind: str, args: Any, labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """The labels behind an operation that reads one tensor.

    Args:
        kind: the operation's name.
        args: what it was called with.
        labels: of the tensor.
        before, after: shapes of the tensor and of the outcome.

    Raises:
        Lost: its channels cannot be followed through that, or it is no operation that is known here.
    """
    if kind in SAME_CHANNELS:
        return _same_channels(kind, args, labels)
    if kind in VIEWS:
        return _viewed(labels, before, after)
    if kind in PERMUTES:
        return _permuted(kind, args, labels)
    if kind == "index":
        return _indexed(args[1], labels, after)
    if kind in SELECTS:
        return _selected(kind, args, labels, before, after)
    if kind in REDUCTIONS:
        return _reduced(kind, args, labels, after)
    if kind in SPLITS:
        if labels[args[1]] is not None:
            raise UntraceableOp("compares channels with each other")
        return labels
    raise UntraceableOp("is no operation that pruning knows")


def _same_channels(kind: str, args: Any, labels: Labels) -> Labels:
    sides = len(args[1]) // 2 if kind == "constant_pad_nd" else 2
    if any(label is not None for label in (*labels[2:], *labels[len(labels) - sides :])):
        raise UntraceableOp("runs along channels")
    return labels


def _viewed(labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Labels through a change of shape that leaves the labeled dimensions whole."""
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
            raise UntraceableOp(f"makes a map of {tuple(after)} of one of {tuple(before)}")
        result.append(None)
    return tuple(result)


def _permuted(kind: str, args: Any, labels: Labels) -> Labels:
    order = list(range(len(labels)))
    if kind == "permute":
        order = [dim % len(labels) for dim in args[1]]
    elif len(order) > 1:
        a, b = (0, 1) if kind == "t" else (dim % len(labels) for dim in args[1:3])
        order[a], order[b] = order[b], order[a]
    return tuple(labels[dim] for dim in order)


def _indexed(indices: Sequence[Tensor | None], labels: Labels, after: Sequence[int]) -> Labels:
    """Of ``x[:, :, rows]``: the axes that are indexed become those of the indices, in front where they do not stand side by side."""
    asked = [dim for dim, index in enumerate(indices) if index is not None]
    if any(labels[dim] is not None for dim in asked):
        raise UntraceableOp("picks single channels")
    rest = [label for dim, label in enumerate(labels) if dim not in asked]
    first = asked[0] if asked == list(range(asked[0], asked[-1] + 1)) else 0
    return (*rest[:first], *[None] * (len(after) - len(rest)), *rest[first:])


def _selected(kind: str, args: Any, labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    place = 2 if kind.startswith("split") else 1
    dim = (args[place] if len(args) > place else 0) % len(labels)
    whole = kind == "slice" and before[dim] == after[dim]
    if labels[dim] is not None and not whole:
        raise UntraceableOp("takes some channels by their numbers")
    return tuple(label for here, label in enumerate(labels) if here != dim or kind not in ("select", "unbind"))


def _reduced(kind: str, args: Any, labels: Labels, after: Sequence[int]) -> Labels:
    asked = args[1] if len(args) > 1 and args[1] else range(len(labels))
    gone = {dim % len(labels) for dim in asked}
    if kind != "sum" and any(labels[dim] is not None for dim in gone):
        raise UntraceableOp("compares channels with each other")
    if len(after) == len(labels):
        return tuple(None if dim in gone else label for dim, label in enumerate(labels))
    return tuple(label for dim, label in enumerate(labels) if dim not in gone)
