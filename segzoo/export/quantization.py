"""Lower precisions of exported graphs: fp16 and int8."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, MutableSequence, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch import nn

from segzoo.export.formats import ExportModel
from segzoo.inference.exported.network import to_input_format
from segzoo.layers.conv import Classifier
from segzoo.types import PlainDict

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from onnx import ModelProto, NodeProto
    from openvino import Model

M = TypeVar("M", bound="Message")
HALF_OPERATORS = ("Relu", "Add", "Concat", "MaxPool")  # kept in fp16 between convolutions


def quantize_onnx(proto: ModelProto, model: ExportModel, images: Sequence[np.ndarray]) -> ModelProto:
    """Quantize the convolutions of an ONNX model to int8, except classifiers.

    Quantization is static and per channel, with activation ranges from the images.

    Args:
        proto: the ``onnx.ModelProto`` that ``model`` was exported to.
        model: names the weights of the classifiers and the input format.
        images: (H, W, C) each.

    Returns:
        The quantized ``onnx.ModelProto``.
    """
    import onnx  # type: ignore[import-not-found]
    from onnxruntime.quantization import (  # type: ignore[import-not-found]
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class ImageReader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> PlainDict | None:
            image = next(self.images, None)
            return None if image is None else {"image": to_input_format(image[None], model.input)}

    with tempfile.TemporaryDirectory(prefix="segzoo-") as folder:
        original, preprocessed, quantized = (str(Path(folder) / f"{name}.onnx") for name in ("original", "preprocessed", "int8"))
        onnx.save(proto, original)
        quant_pre_process(original, preprocessed, auto_merge=True)
        nodes = [node for node in onnx.load(preprocessed).graph.node if node.op_type == "Conv"]
        quantize_static(
            preprocessed,
            quantized,
            ImageReader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[node.name for node in nodes if node.input[1] in _classifier_weights(proto, model)],
            per_channel=True,
        )
        return onnx.load(quantized)


def quantize_openvino(graph: Model, model: ExportModel, images: Sequence[np.ndarray]) -> Model:
    """Quantize the layers of an OpenVINO graph to int8 with NNCF.

    The arguments are those of ``quantize_onnx``.
    """
    import nncf  # type: ignore[import-not-found]

    dataset = nncf.Dataset([to_input_format(image[None], model.input) for image in images])
    upsampling = nncf.IgnoredScope(types=["Interpolate"], validate=False)  # some networks have none
    return nncf.quantize(graph, dataset, subset_size=len(images), ignored_scope=upsampling)


def halve_onnx(proto: ModelProto, model: nn.Module) -> ModelProto:
    """Convert the convolutions of an ONNX model to fp16, and return it.

    So are the simple operators between them. Classifiers, normalization, pooling and upsampling stay in fp32: they are a small part of
    the work, and fp16 holds neither their sums nor pixel positions above 2048.
    """
    from onnx import TensorProto, helper, numpy_helper  # type: ignore[import-not-found]

    graph, classifiers = proto.graph, _classifier_weights(proto, model)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    halved: dict[str, str] = {}  # tensor in fp32 -> its version in fp16
    only_half: set[str] = set()  # tensors that so far exist in fp16 only
    nodes: list[NodeProto] = []

    def to_half(name: str) -> str:
        if name not in halved:
            halved[name] = f"{name}_fp16"
            if name in weights:
                half = numpy_helper.to_array(weights[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(half, halved[name]))
            else:
                nodes.append(helper.make_node("Cast", [name], [halved[name]], f"{name}_to_fp16", to=TensorProto.FLOAT16))
        return halved[name]

    def to_single(names: Sequence[str]) -> None:
        for name in [name for name in names if name in only_half]:
            only_half.remove(name)
            nodes.append(helper.make_node("Cast", [halved[name]], [name], f"{name}_to_fp32", to=TensorProto.FLOAT))

    for node in graph.node:
        is_conv = node.op_type == "Conv" and node.input[1] not in classifiers
        if is_conv or (node.op_type in HALF_OPERATORS and all(name in halved for name in node.input)):
            node.input[:] = [name and to_half(name) for name in node.input]
            halved |= {name: f"{name}_fp16" for name in node.output}
            only_half |= set(node.output)
            node.output[:] = [halved[name] for name in node.output]
        else:
            to_single(node.input)
        nodes.append(node)
    to_single([output.name for output in graph.output])
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    _refill(graph.node, nodes)
    _refill(graph.initializer, kept)
    del graph.value_info[:]  # types and shapes of intermediate tensors, which the checker infers again
    return proto


def _refill(field: MutableSequence[M], messages: Sequence[M]) -> None:
    """Replace the messages of a repeated field by copies of others.

    These may be its own.
    """
    copies = [type(message).FromString(message.SerializeToString()) for message in messages]
    del field[:]
    field.extend(copies)


def _classifier_weights(proto: ModelProto, model: nn.Module) -> set[str]:
    """Find the tensors of an ONNX model that are weights of classifiers.

    Raises:
        RuntimeError: there are none, because the exporter names weights differently.
    """
    weights = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, Classifier)}
    found = {node.input[1] for node in proto.graph.node if node.op_type == "Conv"} & weights
    if not found:
        raise RuntimeError("no classifier found in the exported network, so it would lose precision too; use precision=fp32")
    return found
