"""OpenVINO on Intel processors, the fastest way here where they multiply matrices in bf16 or int8."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch
from torch import Tensor

from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import (
    Call,
    RuntimeRequest,
    RuntimeUnavailable,
    check_precision,
    classifier_layers,
    onnx_file,
    reject_cuda,
    supports_precisions,
)

HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}  # int8: what is not quantized


@RUNTIMES.register
@supports_precisions(*HINTS)
def openvino(order: RuntimeRequest, *, calibration_images: int = 16) -> Call:
    """Converts the exported network and compiles it for the order's size, for the least time an image.

    Args:
        order: what to run; fp32, bf16, fp16 or int8 (NNCF's post-training quantisation, the rest in bf16).
        calibrate: images from which int8 takes the ranges of its maps.

    Raises:
        ImportError: the packages of ``segzoo[openvino]`` are not installed.
        RuntimeUnavailable: on CUDA, and where the processor would run it in another number format.
    """
    return inference_fn(compiled(order, calibration_images))


def inference_fn(network: Any) -> Call:
    """One inference after another of a compiled network."""
    request = network.create_infer_request()

    def call(pictures: Tensor) -> Tensor:
        request.infer({0: pictures.numpy()}, share_inputs=True)
        return classifier_layers(request.get_output_tensor(0).data)

    return call


def compiled(order: RuntimeRequest, num_calibration_images: int, **properties: Any) -> Any:
    """The network as OpenVINO's compiled model.

    Args:
        order, calibrate: as in ``openvino``.
        properties: of the plug-in, beside those set here, such as ``PERF_COUNT=True``.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would call home
    ov: Any = importlib.import_module("openvino")  # not this module, whatever a type checker thinks

    reject_cuda(order, "openvino")
    check_precision(order, "openvino", tuple(HINTS))
    with onnx_file(order) as path:
        graph = ov.Core().read_model(path)
    return compiled_graph(graph, order, num_calibration_images, **properties)


def compiled_graph(graph: Any, order: RuntimeRequest, num_calibration_images: int, **properties: Any) -> Any:
    """OpenVINO's compiled model of a graph of its own that takes what the order's network takes; arguments as in ``compiled``."""
    ov: Any = importlib.import_module("openvino")
    if order.precision == "int8":
        graph.reshape([1, *order.example.shape[1:]])  # as the images come
        graph = _quantize(graph, order, num_calibration_images)
    graph.reshape(list(order.example.shape))
    properties |= {"INFERENCE_PRECISION_HINT": HINTS[order.precision], "PERFORMANCE_HINT": "LATENCY"}
    network = ov.Core().compile_model(graph, "CPU", properties | {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
    taken = network.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if taken != HINTS[order.precision] and order.precision != "int8":
        raise RuntimeUnavailable(f"openvino runs {order.precision} in {taken} on this processor: ask for that")
    return network


def _quantize(graph: Any, order: RuntimeRequest, num_calibration_images: int) -> Any:
    """The graph with its convolutions in int8, by ranges seen on the order's images."""
    import nncf  # type: ignore[import-not-found]

    pictures = nncf.Dataset([picture[None] for picture in order.calibration_images[:num_calibration_images]])
    growing = nncf.IgnoredScope(types=["Interpolate"], validate=False)  # of which a network may have none
    return nncf.quantize(graph, pictures, subset_size=num_calibration_images, ignored_scope=growing)
