"""Exported networks answer as the network does, at sizes and batches that were never traced, and say what they are."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from segzoo.export import Deployed, to_onnx, to_torch_export
from segzoo.zoo import create_model

onnxruntime = pytest.importorskip("onnxruntime", reason='pip install -e ".[export]"')
pytest.importorskip("onnxscript", reason='pip install -e ".[export]"')
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 58.0, 57.0)


def deployed(name="icnet", takes: Any = "uint8", gives: Any = "both"):
    torch.manual_seed(0)
    model = create_model(name, backbone={"name": "resnet50", "width": 0.125}, num_classes=5).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.data.uniform_(0.6, 1.4)  # type: ignore[union-attr]
    return Deployed(model, MEAN, STD, takes=takes, gives=gives).eval()


def picture(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("takes, gives", [("uint8", "both"), ("float", "labels")])
def test_onnx_runtime_gives_the_networks_labels_at_other_sizes(tmp_path, takes, gives):
    net = deployed(takes=takes, gives=gives)
    to_onnx(net, tmp_path / "net.onnx", {"classes": ["a", "b"]})
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]  # one file, nothing half-written
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["segzoo"]) == {"classes": ["a", "b"]}
    for shape in ((1, 65, 97), (3, 64, 128), (2, 119, 66)):
        image = torch.from_numpy(picture(*shape))
        image = image if takes == "uint8" else image.permute(0, 3, 1, 2).float()
        with torch.no_grad():
            wanted = net(image)
        found = session.run(None, {"image": image.numpy()})
        assert len(found) == len(wanted) and found[0].dtype == np.uint8 and found[0].shape == shape
        assert (found[0] == wanted[0].numpy()).mean() > 0.999
        if gives == "both":
            np.testing.assert_allclose(found[1], wanted[1].numpy(), rtol=1e-3, atol=1e-3 * np.abs(wanted[1].numpy()).max())


def test_a_fixed_size_is_fixed(tmp_path):
    to_onnx(deployed(gives="labels"), tmp_path / "net.onnx", {}, hw=(64, 96))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [64, 96, 3]
    assert session.run(None, {"image": picture(2, 64, 96)})[0].shape == (2, 64, 96)
    with pytest.raises(Exception, match=r"(?i)invalid dim|expected"):
        session.run(None, {"image": picture(1, 65, 96)})


def test_torch_export_gives_the_networks_labels(tmp_path):
    net = deployed(gives="labels")
    to_torch_export(net, tmp_path / "net.pt2", {"classes": ["a"]})
    facts = {"segzoo": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=facts).module()
    assert json.loads(facts["segzoo"]) == {"classes": ["a"]}
    image = torch.from_numpy(picture(1, 70, 99))
    with torch.no_grad():
        assert (program(image)[0] == net(image)[0]).float().mean() > 0.999
