"""Operations that code would launch on a GPU, on machines without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = (
    "view",
    "select",
    "slice",
    "expand",
    "permute",
    "transpose",
    "unsqueeze",
    "squeeze",
    "unbind",
    "detach",
    "alias",
    "split",
    "prim",
)


class Operations(TorchDispatchMode):
    """Counts the operations of a block, except views.

    Attributes:
        count: their number.
        copies: names of those that copy from the CPU to another device, or wait for that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count, self.copies = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result, name = function(*args, **(kwargs or {})), str(function)
        self.count += not any(view in name for view in VIEWS) or "index_select" in name
        sources, results = (devices(values) for values in ((args, kwargs), result))
        waits = "local_scalar" in name or "nonzero" in name
        if sources - {"cpu"} and waits or "cpu" in sources and results - {"cpu"}:
            self.copies.append(name)
        return result


def devices(values: object) -> set[str]:
    """Kinds of devices of all tensors in nested containers."""
    return {value.device.type for value in pytree.tree_leaves(values) if isinstance(value, Tensor)}


@contextmanager
def fake_cuda() -> Iterator[Operations]:
    """Count operations on tensors without values, which may be on ``cuda``."""
    with FakeTensorMode(), Operations() as operations:
        yield operations
