"""What a runtime is asked for, and how it says that it cannot."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from segzoo.device import RuntimePrecision
from segzoo.export.formats import ExportModel, to_onnx

Call = Callable[[Tensor], Tensor]  # (N, H, W, 3) uint8 RGB -> logits (N, K, h, w) float32


@dataclass(frozen=True)
class RuntimeRequest:
    """What a runtime builds a call from.

    Attributes:
        deployed: the network, taking ``uint8`` and giving ``logits``, in evaluation mode on its device; a builder may change it.
        example: (N, H, W, 3) uint8 on that device: the batch and the size that the call is for.
        precision: the number format of its layers.
        images: (H, W, 3) uint8 of that size, from which int8 takes its ranges.
    """

    model: ExportModel
    example: Tensor
    precision: RuntimePrecision
    calibration_images: Sequence[np.ndarray]

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.example.shape[1], self.example.shape[2]


class RuntimeUnavailable(RuntimeError):
    """A runtime that cannot do what it was asked for; the message says why and what to do."""


def supports_precisions(*able: str) -> Callable[[Callable[..., Call]], Callable[..., Call]]:
    """Decorator: the number formats that a runtime knows, which ``formats_of`` tells; it raises RuntimeUnavailable for any other."""

    def limit(builder: Callable[..., Call]) -> Callable[..., Call]:
        @functools.wraps(builder)
        def build(order: RuntimeRequest, **words: Any) -> Call:
            check_precision(order, builder.__name__, able)
            return builder(order, **words)

        build.formats = able  # type: ignore[attr-defined]
        return build

    return limit


def supported_precisions(runtime: Callable[..., Call]) -> tuple[str, ...]:
    """The number formats that a registered runtime knows, whatever the machine; all of them where it does not say."""
    return getattr(runtime, "formats", get_args(RuntimePrecision))


def check_precision(order: RuntimeRequest, runtime: str, able: Sequence[str]) -> None:
    """Raises RuntimeUnavailable unless the precision is one of ``able``."""
    if order.precision not in able:
        raise RuntimeUnavailable(f"{runtime} does not run in {order.precision} here; it does in {', '.join(able)}")


def reject_cuda(order: RuntimeRequest, runtime: str) -> None:
    """Raises RuntimeUnavailable if the images are on a GPU."""
    if order.example.is_cuda:
        raise RuntimeUnavailable(f"{runtime} runs on the CPU here: say device=cpu")


@contextmanager
def onnx_file(order: RuntimeRequest):
    """The network as an ``.onnx`` file of the order's size, gone at the end of the ``with`` block."""
    with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
        path = Path(folder) / "net.onnx"
        to_onnx(order.model.cpu(), path, {}, hw=order.hw)
        yield path


def classifier_layers(output: Tensor | np.ndarray) -> Tensor:
    """A network's output, in float32 if it is floating, without a copy where it is so already."""
    tensor = torch.from_numpy(output) if isinstance(output, np.ndarray) else output
    return tensor.float() if tensor.is_floating_point() else tensor
