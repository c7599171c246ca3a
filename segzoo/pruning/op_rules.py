"""Rules for how operations with one traced input propagate channel labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from segzoo.types import PlainMapping

Labels = tuple[tuple[int, ...] | None, ...]  # of a tensor: one label per index, for each dimension that holds channels
KEPT = 0  # label of what must never be removed: the image's color channels and the classes


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# aten operations, without the trailing underscore of in-place variants
ELEMENTWISE = _names(
    "abs add addcdiv addcmul alias bernoulli celu clamp clamp_max clamp_min clone contiguous copy cos detach div elu empty_like erf exp "
    "expand expm1 fill floor full_like gelu hardsigmoid hardswish hardtanh leaky_relu lerp lift_fresh log log1p log_sigmoid_forward "
    "masked_fill maximum minimum mish mul native_dropout neg ones_like _prelu_kernel pow rand_like randn_like reciprocal relu round "
    "rsqrt rsub sigmoid sign silu sin softplus sqrt square sub tan tanh threshold _to_copy where zero zeros_like"
)
SPATIAL = _names(  # act on the dimensions after the first two only
    "_adaptive_avg_pool2d adaptive_max_pool2d avg_pool2d max_pool2d_with_indices "
    "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
    "constant_pad_nd reflection_pad2d replication_pad2d"
)
VIEWS = _names("view _unsafe_view reshape unsqueeze squeeze _reshape_alias")
PERMUTATIONS = _names("t transpose permute")
SELECTIONS = _names("index_select slice select unbind split split_with_sizes")
REDUCTIONS = _names("sum mean amax amin")
SOFTMAXES = _names("_softmax _log_softmax")


class ParamDim(NamedTuple):
    """A dimension of a parameter or buffer."""

    name: str
    dim: int


class UntraceableOp(Exception):
    """An operation after which channels can no longer be identified.

    The message continues a sentence that starts with the operation's name.
    """


def propagate(kind: str, arguments: PlainMapping, labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Labels of the output of an operation with one traced input.

    Args:
        kind: name of the aten operation.
        arguments: its arguments, by their names in the operation's schema.
        labels: of the input.
        before, after: shapes of the input and the output.

    Raises:
        UntraceableOp: the operation mixes or selects channels, or is unknown.
    """
    if kind in SPATIAL:
        return _spatial(kind, arguments, labels)
    if kind in VIEWS:
        return _view(labels, before, after)
    if kind in PERMUTATIONS:
        return _permute(kind, arguments, labels)
    if kind == "index":
        return _index(arguments["indices"], labels, after)
    if kind in SELECTIONS:
        return _select(kind, arguments["dim"] % len(labels), labels, before, after)
    if kind in REDUCTIONS:
        return _reduce(kind, arguments, labels, after)
    if kind in SOFTMAXES:
        if labels[arguments["dim"]] is not None:
            raise UntraceableOp("compares channels with each other")
        return labels
    raise UntraceableOp("is not supported by pruning")


def _spatial(kind: str, arguments: PlainMapping, labels: Labels) -> Labels:
    num_dims = len(arguments["pad"]) // 2 if kind == "constant_pad_nd" else 2
    if any(row is not None for row in (*labels[2:], *labels[len(labels) - num_dims :])):
        raise UntraceableOp("runs along channels")
    return labels


def _view(labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Labels after a reshape, which must neither split nor merge labeled dimensions.

    Dimensions of size 1 are skipped on both sides. The others are consumed from left to right.
    """
    remaining = [(size, row) for size, row in zip(before, labels, strict=True) if size != 1]
    result: list[tuple[int, ...] | None] = []
    for size in after:
        if size == 1:
            result.append(None)
            continue
        length, row = remaining.pop(0)
        if length == size:
            result.append(row)
            continue
        while length < size:  # merged with the next dimension
            next_size, next_row = remaining.pop(0)
            length, row = length * next_size, row or next_row
        if length > size:  # split: the rest belongs to the next output dimension
            remaining.insert(0, (length // size, None))
        if row is not None:
            raise UntraceableOp(f"reshapes {tuple(before)} to {tuple(after)}")
        result.append(None)
    return tuple(result)


def _permute(kind: str, arguments: PlainMapping, labels: Labels) -> Labels:
    order = list(range(len(labels)))
    if kind == "permute":
        order = [dim % len(labels) for dim in arguments["dims"]]
    elif len(order) > 1:
        a, b = (0, 1) if kind == "t" else (arguments[name] % len(labels) for name in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
    return tuple(labels[dim] for dim in order)


def _index(indices: Sequence[Tensor | None], labels: Labels, after: Sequence[int]) -> Labels:
    """Labels of ``x[:, :, rows]``, which must not index a labeled dimension.

    The dimensions of the indices replace the indexed ones if these are adjacent, and come first otherwise.
    """
    indexed = [dim for dim, index in enumerate(indices) if index is not None]
    if any(labels[dim] is not None for dim in indexed):
        raise UntraceableOp("picks single channels")
    rest = [row for dim, row in enumerate(labels) if dim not in indexed]
    first = indexed[0] if indexed == list(range(indexed[0], indexed[-1] + 1)) else 0
    return (*rest[:first], *[None] * (len(after) - len(rest)), *rest[first:])


def _select(kind: str, dim: int, labels: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    full_slice = kind == "slice" and before[dim] == after[dim]
    if labels[dim] is not None and not full_slice:
        raise UntraceableOp("takes some channels by their index")
    return tuple(row for other, row in enumerate(labels) if other != dim or kind not in ("select", "unbind"))


def _reduce(kind: str, arguments: PlainMapping, labels: Labels, after: Sequence[int]) -> Labels:
    reduced = {dim % len(labels) for dim in arguments.get("dim") or range(len(labels))}
    if kind != "sum" and any(labels[dim] is not None for dim in reduced):
        raise UntraceableOp("compares channels with each other")
    if len(after) == len(labels):
        return tuple(None if dim in reduced else row for dim, row in enumerate(labels))
    return tuple(row for dim, row in enumerate(labels) if dim not in reduced)
