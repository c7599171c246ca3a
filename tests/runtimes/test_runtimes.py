"""Every runtime gives the network's scores in the number format it was asked for, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segzoo.api import create_model
from segzoo.export.formats import ExportModel
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import RuntimeRequest, RuntimeUnavailable


def order(precision: Any = "fp32", name="icnet"):
    torch.manual_seed(0)
    model = create_model(name, backbone={"name": "resnet50", "width": 0.125}, num_classes=5).eval()
    pictures = [np.random.default_rng(n).integers(0, 256, (64, 96, 3), dtype=np.uint8) for n in range(4)]
    deployed = ExportModel(model, (120.0, 110.0, 100.0), (60.0, 58.0, 57.0), input="uint8", output="logits").eval()
    return RuntimeRequest(deployed, torch.from_numpy(pictures[0][None]), precision, pictures)


SLOW = {"torch_compile", "onnxruntime", "openvino"}
PRECISIONS = {
    "eager": ("fp32", "bf16", "fp16"),
    "torch_compile": ("fp32", "bf16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
}
CASES = [
    pytest.param(name, precision, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in RUNTIMES.names()
    for precision in PRECISIONS[name]
]


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_runtimes_give_the_networks_scores(name, precision):
    needs = {"onnxruntime": ["onnxscript", "onnxruntime"], "openvino": ["onnxscript", "openvino"]}.get(name, [])
    for package in [*needs, *(["nncf"] if name == "openvino" and precision == "int8" else [])]:
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    given = order(precision)
    with torch.no_grad():
        wanted = given.model(given.example)[0]
    try:
        found = RUNTIMES.build(name, given)(given.example)
    except RuntimeUnavailable as error:
        assert "on this processor" in str(error) and precision == "bf16"
        pytest.skip(str(error))
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    error = (found - wanted).abs().mean() / wanted.abs().mean()
    least, most = {"fp32": (0, 1e-3), "fp16": (1e-5, 0.03), "bf16": (1e-4, 0.1), "int8": (1e-3, 0.3)}[precision]
    assert least <= error < most, "a lower precision must differ from fp32, or it was not used"


@pytest.mark.slow
def test_a_network_that_grows_nothing_is_quantised():
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    given = order("int8", "fcn_dilated")
    with torch.no_grad():
        wanted = given.model(given.example)[0]
    found = RUNTIMES.build("openvino", given)(given.example)
    assert 1e-3 < (found - wanted).abs().mean() / wanted.abs().mean() < 0.3


def test_a_precision_that_a_runtime_lacks_is_said():
    with pytest.raises(RuntimeUnavailable, match="does not run in int8 here; it does in fp32"):
        RUNTIMES.build("eager", order("int8"))


def test_graphs_are_refused_on_a_cpu():
    with pytest.raises(RuntimeUnavailable, match="captured on CUDA alone"):
        RUNTIMES.build("torch_compile", order(), cuda_graphs=True)


@pytest.mark.slow
def test_int8_takes_batches():
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    given = order("int8")
    pair = replace(given, example=given.example.repeat(2, 1, 1, 1))
    found = RUNTIMES.build("openvino", pair)(pair.example)
    assert found.shape[0] == 2 and torch.equal(found[0], found[1])
