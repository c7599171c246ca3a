"""Networks prepared for many predictions of images of any size."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from segzoo.device import PrecisionName, pick_precision
from segzoo.export.exporter import interface_metadata
from segzoo.export.formats import ExportModel, to_onnx, to_openvino
from segzoo.inference.exported.network import ExportedNetwork, open_exported
from segzoo.registry import ConfigError
from segzoo.runtimes import EXTRAS
from segzoo.types import DatasetInfo

if TYPE_CHECKING:
    from segzoo.inference.prediction.segmenter import Segmenter

RuntimeName = Literal["eager", "torch_compile", "onnxruntime", "openvino"]
FILE_PRECISIONS = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}  # others need an export that is checked


def run_in(model: Segmenter, runtime: RuntimeName, *, precision: PrecisionName, device: torch.device) -> Segmenter:
    """Prepare a network for a runtime.

    Unlike the runtimes of the benchmark, which are built for one size and one batch, the result takes images of any size.

    Args:
        model: a ``SegModel`` in evaluation mode with its ``info``. It is changed.
        runtime: ``eager`` moves it to the device, with weights in channels-last order. The labels of all runtimes are the same up to
            rounding. ``torch_compile`` also fuses it, so that it cannot be trained, and compiles it at the first image, which takes
            half a minute or more, and again at the first ones of other sizes. ``onnxruntime`` and ``openvino`` export it to a temporary
            file, which takes up to half a minute, and run that on the CPU, at least 64 x 64 pixels.
        precision: precision of the layers. ``onnxruntime`` has fp32, ``openvino`` fp32 and bf16, the others all.
        device: the device.

    Raises:
        ConfigError: the runtime is unknown, not installed, or lacks the precision or the device.
    """
    if runtime in ("eager", "torch_compile"):
        model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.precision = pick_precision(precision, device)
        if runtime == "torch_compile":
            model.fuse_for_inference_()  # type: ignore[operator]
            model.compile(options={"freezing": True})
            model.divides_cores = False  # the number of threads is compiled in
        return model
    if runtime not in FILE_PRECISIONS:
        raise ConfigError(f"runtime={runtime!r} is not known, expected one of eager, torch_compile, {', '.join(FILE_PRECISIONS)}.")
    if device.type != "cpu":
        raise ConfigError(f"runtime={runtime} runs on the CPU. Set device=cpu, or runtime=torch_compile for CUDA.")
    able = FILE_PRECISIONS[runtime]
    if precision == "auto":
        precision = "bf16" if "bf16" in able and pick_precision("auto", device) == "bf16" else "fp32"
    if precision not in able:
        raise ConfigError(
            f"runtime={runtime} predicts in {' or '.join(able)}, got precision={precision}. For others, export a file with "
            "tools/export.py, which checks it, and load that."
        )
    try:
        return _export(model, runtime, precision)
    except ImportError as error:
        raise ConfigError(f'runtime={runtime} needs {error.name}: pip install "segzoo[{EXTRAS[runtime]}]"') from None


def _export(model: Segmenter, runtime: RuntimeName, precision: PrecisionName) -> ExportedNetwork:
    """Export a network to a temporary file and open that.

    The file has logits, which any inference protocol can use.
    """
    info = model.info
    assert isinstance(info, DatasetInfo)
    model.fuse_for_inference_()  # type: ignore[operator]
    exported = ExportModel(model.cpu(), info.mean, info.std, input=info.pixels.dtype, output="logits").eval()
    metadata = interface_metadata(exported, info, None, precision)
    with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
        path = Path(folder) / ("model.xml" if runtime == "openvino" else "model.onnx")
        (to_openvino if runtime == "openvino" else to_onnx)(exported, path, metadata)
        network = open_exported(path)
    network.path = None  # the file is gone
    if network.precision != precision:
        raise ConfigError(
            f"precision={precision}: this processor runs it as {network.precision}. Set precision={network.precision}."
        )
    return network
