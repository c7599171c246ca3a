"""The exported ICNet has no more operations and layout changes than today.

These are counts, not times, so a busy machine changes none of them. A change that undoes an optimization raises one: an unfused batch norm
or ReLU, a feature map in another memory order, or one more pass over the image. Who removes an operation lowers its number here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_exports import MEAN, STD

from benchmarks.harness.models import NETWORKS
from segzoo.api import create_model
from segzoo.export.formats import ExportModel, to_onnx

SIZE = (256, 512)
# operations of ICNet half from bytes to labels: type -> largest count
ONNX = {
    **{"Conv": 64, "Relu": 57, "Resize": 9, "MaxPool": 1, "MatMul": 1, "ArgMax": 1},
    **{"Div": 1, "Transpose": 3, "Cast": 2},  # normalization of the image, and layouts
    **{"Pad": 4, "Sub": 3, "Mul": 2, "Add": 24},  # also of the image that is enlarged by one pixel on each axis
    **{"Shape": 9, "Concat": 9, "Reshape": 5, "Split": 1, "Expand": 1},  # of sizes and pooled maps
}
# layers that OpenVINO executes in fp32. Convolutions contain ReLUs and additions; a subgraph is one pass of other elementwise operations.
OPENVINO = {
    **{"Convolution": 64, "Interpolate": 9, "Pooling": 2, "MatMul": 1, "TopK": 1, "Subgraph": 4, "Pad": 4},
    **{"Reorder": 8, "Transpose": 2, "Convert": 1, "Split": 1, "Reshape": 7},  # layouts
    **{"Const": 112, "Input": 1, "Output": 2},  # not executed
}


@pytest.fixture(scope="module")
def icnet_half(tmp_path_factory) -> Path:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason='pip install -e ".[export]"')
    model = create_model("icnet", NETWORKS["icnet_half"]["backbone"], 19).eval()
    model.fuse_for_inference_()
    path = tmp_path_factory.mktemp("icnet_half") / "net.onnx"
    to_onnx(ExportModel(model, MEAN, STD, input="uint8", output="labels").eval(), path, {}, hw=SIZE)
    return path


def exceeded(counts: Counter, largest: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Type -> count and largest count, of the types with too many."""
    return {kind: (count, largest.get(kind, 0)) for kind, count in counts.items() if count > largest.get(kind, 0)}


@pytest.mark.integration
def test_the_onnx_graph_has_no_more_operations(icnet_half):
    import onnx  # type: ignore[import-not-found]

    assert exceeded(Counter(node.op_type for node in onnx.load(icnet_half).graph.node), ONNX) == {}


@pytest.mark.integration
def test_openvino_executes_no_more_layers_and_reorders(icnet_half):
    openvino: Any = pytest.importorskip("openvino", reason='pip install -e ".[openvino]"')
    graph = openvino.Core().read_model(icnet_half)
    graph.reshape([1, *SIZE, 3])
    properties = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    executed = openvino.Core().compile_model(graph, "CPU", properties).get_runtime_model()
    layers = [layer.get_rt_info() for layer in executed.get_ordered_ops()]
    if not any("avx2" in layer["primitiveType"].astype(str) for layer in layers):
        pytest.skip("the layouts that OpenVINO chooses depend on the processor; these numbers are for AVX2")
    assert exceeded(Counter(layer["layerType"].astype(str) for layer in layers), OPENVINO) == {}
