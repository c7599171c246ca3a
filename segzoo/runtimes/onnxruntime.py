"""ONNX Runtime on the CPU or on CUDA, in fp32 or, calibrated on images, in int8."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segzoo.export.formats import ExportModel
from segzoo.layers.conv import Classifier
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import Call, RuntimeRequest, RuntimeUnavailable, classifier_layers, onnx_file, supports_precisions


@RUNTIMES.register
@supports_precisions("fp32", "int8")
def onnxruntime(order: RuntimeRequest, *, calibration_images: int = 16) -> Call:
    """Runs the exported network; on CUDA images and scores pass through the memory of the host.

    Args:
        order: what to run; fp32 or int8 (static, per channel, score layers left in fp32).
        calibrate: images from which int8 takes the ranges of its maps.

    Raises:
        ImportError: the packages of ``segzoo[export]`` are not installed.
        RuntimeUnavailable: for other precisions, and on CUDA where ONNX Runtime was built without it or cannot start on it.
    """
    ort: Any = importlib.import_module("onnxruntime")  # not this module, whatever a type checker thinks

    provider = "CUDAExecutionProvider" if order.example.is_cuda else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise RuntimeUnavailable("onnxruntime was built without CUDA: pip install onnxruntime-gpu, or say device=cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with onnx_file(order) as path:
        if order.precision == "int8":
            path = _quantize(path, order, calibration_images)
        session = ort.InferenceSession(path, options, providers=[provider])
    if provider not in session.get_providers():  # it only logs that it went on without
        raise RuntimeUnavailable("onnxruntime could not start on CUDA, its libraries do not load: see its log, or say device=cpu")

    def call(pictures: Tensor) -> Tensor:
        return classifier_layers(np.asarray(session.run(None, {"image": pictures.cpu().numpy()})[0])).to(pictures.device)

    return call


def _quantize(path: Path, order: RuntimeRequest, num_calibration_images: int) -> Path:
    """The file with its convolutions in int8, beside the one given."""
    from onnxruntime.quantization import (  # type: ignore[import-not-found]
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(order.calibration_images[:num_calibration_images])

        def get_next(self) -> dict[str, Any] | None:
            picture = next(self.left, None)
            return None if picture is None else {"image": picture[None]}

    clean, done = path.with_name("clean.onnx"), path.with_name("int8.onnx")
    quant_pre_process(str(path), str(clean))
    quantize_static(
        str(clean),
        str(done),
        Pictures(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=_scores(clean, order.model),
        per_channel=True,
    )
    return done


def _scores(path: Path, deployed: ExportModel) -> list[str]:
    """Names of the convolutions that give class scores, which are those with a score layer's weights.

    Raises:
        RuntimeUnavailable: there is none, because the exporter has come to name weights otherwise.
    """
    import onnx  # type: ignore[import-not-found]

    weights = {f"{name}.weight" for name, layer in deployed.named_modules() if isinstance(layer, Classifier)}
    found = [node.name for node in onnx.load(str(path)).graph.node if node.op_type == "Conv" and node.input[1] in weights]
    if not found:
        raise RuntimeUnavailable(
            "onnxruntime: the exported network names no score layer, and int8 would take its precision; use another precision"
        )
    return found
