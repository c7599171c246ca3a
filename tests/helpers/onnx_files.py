"""ONNX files as other code might write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def write_onnx(path: Path, convolution: nn.Conv2d, labels: int = 0, height: int | None = None) -> Path:
    """Write a file with a single convolution of 1x1.

    Args:
        path: the file.
        convolution: its weights.
        labels: 0 for logits, 1 for labels (N, H, W), 2 for labels (N, 1, H, W).
        height: the only height that it takes; None takes any.
    """
    weight, bias = (parameter.detach().numpy() for parameter in convolution.parameters())
    size = ["n", 3, height or "h", "w"]
    nodes = [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    if labels:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["labels"], axis=1, keepdims=int(labels > 1)))
        output = helper.make_tensor_value_info("labels", TensorProto.INT64, None)
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in (("weight", weight), ("bias", bias))]
    graph = helper.make_graph(
        nodes, "outside", [helper.make_tensor_value_info("image", TensorProto.FLOAT, size)], [output], tensors
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path
