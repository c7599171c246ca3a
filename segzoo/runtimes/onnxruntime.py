"""ONNX Runtime on the CPU or on CUDA, in fp32 or int8."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from segzoo.export.formats import ExportModel
from segzoo.layers.conv import Classifier
from segzoo.registry import RUNTIMES, Range
from segzoo.runtimes._base import InferenceFn, RuntimeRequest, RuntimeUnavailable, as_float32, onnx_file, supports_precisions
from segzoo.types import PlainDict


@RUNTIMES.register
@supports_precisions("fp32", "int8")
def onnxruntime(request: RuntimeRequest, *, calibration_images: Annotated[int, Range(1, 1000)] = 16) -> InferenceFn:
    """Run the exported network in ONNX Runtime.

    On CUDA, images and logits are copied through host memory.

    Args:
        request: the network and its conditions, in fp32 or int8 (static, per channel, with classifiers left in fp32).
        calibration_images: number of images for the activation ranges of int8.

    Raises:
        ImportError: if the packages of ``segzoo[export]`` are not installed.
        RuntimeUnavailable: for other precisions, and on CUDA if ONNX Runtime was built without it or cannot start on it.
    """
    ort: Any = importlib.import_module("onnxruntime")  # the package, which type checkers confuse with this module

    provider = "CUDAExecutionProvider" if request.example.is_cuda else "CPUExecutionProvider"
    if provider not in ort.get_available_providers():
        raise RuntimeUnavailable("onnxruntime was built without CUDA: pip install onnxruntime-gpu, or set device=cpu")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    with onnx_file(request) as path:
        if request.precision == "int8":
            path = _quantize(path, request, calibration_images)
        session = ort.InferenceSession(path, options, providers=[provider])
    if provider not in session.get_providers():  # ONNX Runtime falls back to the CPU and only logs it
        raise RuntimeUnavailable("onnxruntime could not load its CUDA libraries: see its log, or set device=cpu")

    def run(images: Tensor) -> Tensor:
        return as_float32(np.asarray(session.run(None, {"image": images.cpu().numpy()})[0])).to(images.device)

    return run


def _quantize(path: Path, request: RuntimeRequest, num_calibration_images: int) -> Path:
    """Quantize the convolutions of an ONNX file to int8.

    Returns:
        The path of the quantized file, in the same folder.
    """
    from onnxruntime.quantization import (  # type: ignore[import-not-found]
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class ImageReader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images: Iterator[np.ndarray] = iter(request.calibration_images[:num_calibration_images])

        def get_next(self) -> PlainDict | None:
            image = next(self.images, None)
            return None if image is None else {"image": image[None]}

    preprocessed, quantized = path.with_name("preprocessed.onnx"), path.with_name("int8.onnx")
    quant_pre_process(str(path), str(preprocessed))
    quantize_static(
        str(preprocessed),
        str(quantized),
        ImageReader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=_classifier_nodes(preprocessed, request.model),
        per_channel=True,
    )
    return quantized


def _classifier_nodes(path: Path, model: ExportModel) -> list[str]:
    """Find the ONNX nodes that use the weights of a classifier.

    Raises:
        RuntimeUnavailable: if there are none, because the exporter names weights differently.
    """
    import onnx  # type: ignore[import-not-found]

    weights = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, Classifier)}
    nodes = [node.name for node in onnx.load(str(path)).graph.node if node.op_type == "Conv" and node.input[1] in weights]
    if not nodes:
        raise RuntimeUnavailable(
            "onnxruntime: no classifier found in the exported network, so int8 would quantize it too; use another precision"
        )
    return nodes
