"""What a runtime is asked for, and how it says that it cannot."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from segzoo.export.formats import Deployed, to_onnx

NumberFormat = Literal["fp32", "bf16", "fp16", "int8"]
Call = Callable[[Tensor], Tensor]  # (N, H, W, 3) uint8 RGB -> logits (N, K, h, w) float32


@dataclass(frozen=True)
class Order:
    """What a runtime builds a call from.

    Attributes:
        deployed: the network, taking ``uint8`` and giving ``logits``, in evaluation mode on its device; a builder may change it.
        example: (N, H, W, 3) uint8 on that device: the batch and the size that the call is for.
        precision: the number format of its layers.
        pictures: (H, W, 3) uint8 of that size, from which int8 takes its ranges.
    """

    deployed: Deployed
    example: Tensor
    precision: NumberFormat
    pictures: Sequence[np.ndarray]

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.example.shape[1], self.example.shape[2]


class Unable(RuntimeError):
    """A runtime that cannot do what it was asked for; the message says why and what to do."""


def runs_in(*able: str) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
    """Decorator: the number formats that a runtime knows, which ``formats_of`` tells; it raises Unable for any other."""

    def limit(builder: Callable[..., Call]) -> Callable[..., Call]:
        @functools.wraps(builder)
        def build(order: Order, **words: Any) -> Call:
            refuse_other_precision(order, builder.__name__, able)
            return builder(order, **words)

        build.formats = able  # type: ignore[attr-defined]
        return build

    return limit


def formats_of(runtime: Callable[..., Call]) -> tuple[str, ...]:
    """The number formats that a registered runtime knows, whatever the machine; all of them where it does not say."""
    return getattr(runtime, "formats", get_args(NumberFormat))


def refuse_other_precision(order: Order, runtime: str, able: Sequence[str]) -> None:
    """Raises Unable unless the precision is one of ``able``."""
    if order.precision not in able:
        raise Unable(f"{runtime} does not run in {order.precision} here; it does in {', '.join(able)}")


def refuse_cuda(order: Order, runtime: str) -> None:
    """Raises Unable if the pictures are on a GPU."""
    if order.example.is_cuda:
        raise Unable(f"{runtime} runs on the CPU here: say device=cpu")


@contextmanager
def onnx_file(order: Order):
    """The network as an ``.onnx`` file of the order's size, gone at the end of the ``with`` block."""
    with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
        path = Path(folder) / "net.onnx"
        to_onnx(order.deployed.cpu(), path, {}, hw=order.hw)
        yield path


def scores(output: Tensor | np.ndarray) -> Tensor:
    """A network's output, in float32 if it is floating, without a copy where it is so already."""
    tensor = torch.from_numpy(output) if isinstance(output, np.ndarray) else output
    return tensor.float() if tensor.is_floating_point() else tensor
