"""OpenVINO on the CPU.

It is the fastest runtime here on Intel processors that multiply matrices in bf16 or int8.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import torch
from torch import Tensor

from segzoo.export.quantization import quantize_openvino
from segzoo.registry import RUNTIMES, Range
from segzoo.runtimes._base import (
    InferenceFn,
    RuntimeRequest,
    RuntimeUnavailable,
    as_float32,
    check_precision,
    onnx_file,
    reject_cuda,
    supports_precisions,
)

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}  # int8: the layers that are not quantized


@RUNTIMES.register
@supports_precisions(*HINTS)
def openvino(request: RuntimeRequest, *, calibration_images: Annotated[int, Range(1, 1000)] = 16) -> InferenceFn:
    """Run the exported network in OpenVINO, compiled for low latency.

    Args:
        request: the network and its conditions, in fp32, bf16, fp16 or int8 (NNCF post-training quantization, other layers in bf16).
        calibration_images: number of images for the activation ranges of int8.

    Raises:
        ImportError: if the packages of ``segzoo[openvino]`` are not installed.
        RuntimeUnavailable: on CUDA, and if the processor would run the network in another precision.
    """
    return inference_fn(compile_network(request, calibration_images))


def inference_fn(compiled: Any) -> InferenceFn:
    """Wrap a compiled model as a synchronous inference function."""
    infer_request = compiled.create_infer_request()

    def run(images: Tensor) -> Tensor:
        infer_request.infer({0: images.numpy()}, share_inputs=True)
        return as_float32(infer_request.get_output_tensor(0).data)

    return run


def compile_network(request: RuntimeRequest, num_calibration_images: int, **properties: Any) -> Any:
    """Convert the network and compile it with OpenVINO.

    Args:
        request, num_calibration_images: as in ``openvino``.
        properties: additional properties of the CPU plug-in, such as ``PERF_COUNT=True``.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # disables telemetry
    ov = importlib.import_module("openvino")  # the package, which type checkers confuse with this module

    reject_cuda(request, "openvino")
    check_precision(request, "openvino", tuple(HINTS))
    with onnx_file(request) as path:
        graph = ov.Core().read_model(path)
    return compile_graph(graph, request, num_calibration_images, **properties)


def compile_graph(graph: Any, request: RuntimeRequest, num_calibration_images: int, **properties: Any) -> Any:
    """Compile an OpenVINO graph with the input of the requested network.

    The other arguments are those of ``compile_network``.
    """
    ov = importlib.import_module("openvino")
    if request.precision == "int8":
        graph.reshape([1, *request.example.shape[1:]])  # calibration images come one by one
        graph = quantize_openvino(graph, request.model, request.calibration_images[:num_calibration_images])
    graph.reshape(list(request.example.shape))
    properties |= {"INFERENCE_PRECISION_HINT": HINTS[request.precision], "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(graph, "CPU", properties | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    actual = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if actual != HINTS[request.precision] and request.precision != "int8":
        raise RuntimeUnavailable(f"openvino runs {request.precision} as {actual} on this processor: request that precision")
    return compiled
