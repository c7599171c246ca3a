"""Runtime requests, supported precisions and helpers shared by all runtimes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from segzoo.device import RuntimePrecision
from segzoo.export.formats import ExportModel, to_onnx

InferenceFn = Callable[[Tensor], Tensor]  # (N, H, W, C) uint8 or uint16 -> logits (N, K, h, w) float32, valid until the next call
RuntimeBuilder = Callable[..., InferenceFn]


@dataclass(frozen=True)
class RuntimeRequest:
    """A network to run, and the conditions it runs under.

    Attributes:
        model: takes integers and returns ``logits``, in evaluation mode on its device. A builder may modify it.
        example: (N, H, W, C) on that device. It fixes the batch size and the image size.
        precision: precision of the layers.
        calibration_images: (H, W, C) of that size, for the activation ranges of int8.
    """

    model: ExportModel
    example: Tensor
    precision: RuntimePrecision
    calibration_images: Sequence[np.ndarray]

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return self.example.shape[1], self.example.shape[2]


class RuntimeUnavailable(RuntimeError):
    """A runtime cannot fulfill a request.

    The message states the reason and what to do.
    """


def supports_precisions(*precisions: str) -> Callable[[RuntimeBuilder], RuntimeBuilder]:
    """Declare the precisions that a runtime builder supports.

    ``supported_precisions`` reads them, and the builder raises RuntimeUnavailable for any other precision.
    """

    def decorate(builder: RuntimeBuilder) -> RuntimeBuilder:
        @functools.wraps(builder)
        def build(request: RuntimeRequest, **settings: object) -> InferenceFn:
            check_precision(request, builder.__name__, precisions)
            return builder(request, **settings)

        build.precisions = precisions  # type: ignore[attr-defined]
        return build

    return decorate


def supported_precisions(builder: RuntimeBuilder) -> tuple[str, ...]:
    """List the precisions of a registered runtime on any machine.

    A builder that declares none supports all of them.
    """
    return getattr(builder, "precisions", get_args(RuntimePrecision))


def check_precision(request: RuntimeRequest, runtime: str, precisions: Sequence[str]) -> None:
    """Raise RuntimeUnavailable unless the requested precision is supported."""
    if request.precision not in precisions:
        raise RuntimeUnavailable(f"{runtime} does not support {request.precision} here; choose one of {', '.join(precisions)}")


def reject_cuda(request: RuntimeRequest, runtime: str) -> None:
    """Raise RuntimeUnavailable if the images are on a GPU."""
    if request.example.is_cuda:
        raise RuntimeUnavailable(f"{runtime} runs on the CPU only: set device=cpu")


@contextmanager
def onnx_file(request: RuntimeRequest) -> Iterator[Path]:
    """Export the network to a temporary ``.onnx`` file of the requested size.

    The file is deleted at the end of the ``with`` block.
    """
    with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
        path = Path(folder) / "net.onnx"
        to_onnx(request.model.cpu(), path, {}, hw=request.hw)
        yield path


def as_float32(output: Tensor | np.ndarray) -> Tensor:
    """Convert floating-point logits to a float32 tensor.

    An array or tensor that is float32 already is not copied, and integers keep their type.
    """
    tensor = torch.from_numpy(output) if isinstance(output, np.ndarray) else output
    return tensor.float() if tensor.is_floating_point() else tensor
