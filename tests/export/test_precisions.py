"""Exported files of lower precision, and what they are judged by."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from small_exports import NoiseData, export_wrapper
from torch import nn

from segzoo.export.exporter import MIN_AGREEMENT, LabeledImages, export_model
from segzoo.export.parity import check_accuracy
from segzoo.export.quantization import halve_onnx
from segzoo.inference.exported.network import ExportedNetwork, open_exported
from segzoo.layers.conv import Classifier
from segzoo.registry import ConfigError
from segzoo.types import DataError, ParityError

onnx = pytest.importorskip("onnx", reason='pip install -e ".[export]"')
onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
INFO = NoiseData.info


@pytest.mark.parametrize(
    "format, precision, message",
    [
        ("onnx", "bf16", "format=onnx has no precision=bf16, only fp32, fp16, int8. Set format=openvino for it."),
        (
            "torch_export",
            "int8",
            "format=torch_export has no precision=int8, only fp32. Set format=onnx or format=openvino for it.",
        ),
    ],
)
def test_a_format_without_the_precision_is_rejected(tmp_path, format, precision, message):
    with pytest.raises(ConfigError) as error:
        export_model(nn.Identity(), INFO, {}, NoiseData(), tmp_path, format=format, precision=precision)
    assert str(error.value) == message


class NowhereData(NoiseData):
    def __len__(self):
        raise DataError("data root nowhere is not a folder.")


@pytest.mark.parametrize("labeled", [None, LabeledImages(NoiseData(), NowhereData()), LabeledImages(NowhereData(), NoiseData())])
def test_int8_without_labeled_images_is_rejected(tmp_path, labeled):
    with pytest.raises(
        ConfigError, match="int8 is calibrated on the training images and judged by the mIoU of the labeled validation"
    ):
        export_model(export_wrapper().model, INFO, {}, NoiseData(), tmp_path, labeled, precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_int8_is_judged_by_the_miou_that_it_loses():
    """The true label of every pixel is 0."""

    def exported(label: int) -> ExportedNetwork:
        metadata = {"dataset": INFO.to_dict(), "input": "uint8", "output": "labels", "hw": None, "align_corners": True}
        return ExportedNetwork(lambda batch: [np.full(batch.shape[:3], label, np.uint8)], metadata, "int8")

    model = export_wrapper().model
    accuracy = check_accuracy(exported(0), model, NoiseData(), INFO, max_miou_drop=0.0)
    assert accuracy["exported_miou"] == 1 and 0 < accuracy["miou"] < 0.9 and accuracy["images"] == 5
    with pytest.raises(ParityError, match=r"loses .* points of mIoU \(.* to 0.00\), expected at most 0.10"):
        check_accuracy(exported(1), model, NoiseData(), INFO, max_miou_drop=0.001)
    assert check_accuracy(exported(1), model, NoiseData(), INFO, max_miou_drop=1.0)["exported_miou"] == 0


def test_a_file_of_one_size_is_judged_on_resized_images():
    def label(batch):
        assert batch.shape[1:3] == (64, 96)
        return [np.zeros(batch.shape[:3], np.uint8)]

    metadata = {"dataset": INFO.to_dict(), "input": "uint8", "output": "labels", "hw": [64, 96], "align_corners": True}
    accuracy = check_accuracy(
        ExportedNetwork(label, metadata, "int8"), export_wrapper().model, NoiseData(), INFO, max_miou_drop=0.0
    )
    assert accuracy["exported_miou"] == 1 and accuracy["images"] == 5 and NoiseData()[0].image.shape[:2] != (64, 96)


def test_convolutions_but_no_classifiers_become_fp16(tmp_path):
    """Before and after the convolutions, operators stay in fp32."""
    model = nn.Module()
    model.conv, model.score = nn.Conv2d(3, 4, 3, padding=1), Classifier(4, 5)
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Add", ["image", "offset"], ["x"], "before"),
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["y"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
        helper.make_node("Conv", ["z", "score.weight", "score.bias"], ["logits"], "score"),
        helper.make_node("ReduceSum", ["z"], ["total"], "total"),
    ]
    weights = {key: value.detach().numpy() for key, value in model.state_dict().items()} | {
        "offset": np.array([2049.0], np.float32)
    }
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", f32, [1, 3, 6, 7])],
        [helper.make_tensor_value_info("logits", f32, [1, 5, 6, 7]), helper.make_tensor_value_info("total", f32, [1, 1, 1, 1])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    image = np.random.default_rng(0).normal(-2049, 1, (1, 3, 6, 7)).astype(np.float32)

    def run():
        onnx.checker.check_model(proto, full_check=True)
        return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"image": image}
        )

    expected = run()
    halve_onnx(proto, model)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    half = onnx.TensorProto.FLOAT16
    assert types == {
        "conv.weight_fp16": half,
        "conv.bias_fp16": half,
        "score.weight": f32,
        "score.bias": f32,
        "offset": f32,
    }
    for actual, each in zip(run(), expected, strict=True):
        error = np.abs(actual - each).max() / np.abs(each).max()
        assert actual.dtype == np.float32 and 0 < error < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "format, precision, packages, size",
    [
        ("onnx", "fp16", ["onnxscript"], 0.65),
        ("onnx", "int8", ["onnxscript"], 0.55),
        ("openvino", "fp16", ["onnxscript", "openvino"], 0.55),
        ("openvino", "int8", ["onnxscript", "openvino", "nncf"], 0.55),
    ],
)
def test_lower_precisions_are_smaller_and_pass_their_check(exported, tmp_path, format, precision, packages, size):
    for package in packages:
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    labeled, bundle = LabeledImages(NoiseData(), NoiseData()), format == "onnx"
    options = {"format": format, "precision": precision, "calibration_images": 4, "max_miou_drop": 1.0, "bundle": bundle}
    result = export_model(export_wrapper(num_classes=5).model, INFO, {}, NoiseData(), tmp_path, labeled, **options)
    agreement = min(row["agreement"] for row in result["parity"])
    assert MIN_AGREEMENT[precision] <= agreement < 1, "a lower precision must differ from fp32, or it was not used"
    weights = tmp_path / (
        "model.onnx" if format == "onnx" else "model.bin"
    )  # the graph of OpenVINO, in model.xml, is as large in fp32
    assert weights.stat().st_size < size * exported.result["bytes"] and ("accuracy" in result) == (precision == "int8")
    network = open_exported(tmp_path / f"model.{'onnx' if format == 'onnx' else 'xml'}")
    assert network.precision == precision and network.label_images(torch.zeros(2, 65, 97, 3, dtype=torch.uint8)).shape == (
        2,
        65,
        97,
    )
    if bundle:
        card = json.loads(zipfile.ZipFile(result["bundle"]).read("card.json"))
        assert card["min_agreement"] == {"fp16": 0.998, "int8": 0.95}[precision]
        assert (
            card["precision"] == precision and card["parity"] == result["parity"] and card.get("accuracy") == result.get("accuracy")
        )
