"""Every runtime matches the network's logits in the requested precision, or explains why it cannot."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import fake_cuda
from runtime_requests import runtime_request
from torch import nn

from segzoo.layers.conv import Classifier
from segzoo.registry import RUNTIMES
from segzoo.runtimes._base import RuntimeUnavailable
from segzoo.runtimes.eager import cast_to_precision

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
def test_runtimes_match_the_networks_logits(name, precision):
    needs = {"onnxruntime": ["onnxscript", "onnxruntime"], "openvino": ["onnxscript", "openvino"]}.get(name, [])
    for package in [*needs, *(["nncf"] if name == "openvino" and precision == "int8" else [])]:
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    request = runtime_request(precision)
    with torch.no_grad():
        expected = request.model(request.example)[0]
    try:
        actual = RUNTIMES.build(name, request)(request.example)
    except RuntimeUnavailable as error:
        assert "on this processor" in str(error) and precision == "bf16"
        pytest.skip(str(error))
    assert actual.dtype == torch.float32 and actual.shape == expected.shape
    error = (actual - expected).abs().mean() / expected.abs().mean()
    low, high = {"fp32": (0, 1e-3), "fp16": (1e-5, 0.03), "bf16": (1e-4, 0.1), "int8": (1e-3, 0.3)}[precision]
    assert low <= error < high, "a lower precision must differ from fp32, or it was not used"


def test_fp32_of_onnxruntime_on_a_gpu_is_no_tf32(monkeypatch):
    provided = []

    class Session:
        def __init__(self, path, options, providers):
            provided.append(providers)

        def get_providers(self):
            return ["CUDAExecutionProvider"]

    package = {"get_available_providers": lambda: ["CUDAExecutionProvider"], "SessionOptions": SimpleNamespace}
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(**package, InferenceSession=Session))
    monkeypatch.setattr("segzoo.runtimes.onnxruntime.onnx_file", lambda request: nullcontext("net.onnx"))
    request = runtime_request()
    with fake_cuda():
        RUNTIMES.build("onnxruntime", replace(request, example=torch.empty(1, 64, 96, 3, device="cuda")))
    assert provided == [[("CUDAExecutionProvider", {"use_tf32": "0"})]]


@pytest.mark.parametrize("model", ["fcn", "fcn_dilated", "parsenet", "deeplab_largefov", "pspnet", "icnet"])
def test_every_model_runs_in_eager_bf16(model):
    """FCN's transposed convolutions compute in fp32, as classifiers do."""
    request = runtime_request("bf16", model)
    for parameter in request.model.parameters():
        if not parameter.any():  # FCN's classifiers
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        expected = request.model(request.example)[0]
    actual = RUNTIMES.build("eager", request)(request.example)
    assert actual.dtype == torch.float32 and (actual - expected).abs().mean() < 0.1 * expected.abs().mean()


@pytest.mark.slow
def test_a_network_without_upsampling_is_quantized():
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    request = runtime_request("int8", "fcn_dilated")
    with torch.no_grad():
        expected = request.model(request.example)[0]
    actual = RUNTIMES.build("openvino", request)(request.example)
    assert 1e-3 < (actual - expected).abs().mean() / expected.abs().mean() < 0.3


def test_an_unsupported_precision_is_rejected():
    with pytest.raises(RuntimeUnavailable, match="does not support int8 here; choose one of fp32"):
        RUNTIMES.build("eager", runtime_request("int8"))


def test_cuda_graphs_are_rejected_on_a_cpu():
    with pytest.raises(RuntimeUnavailable, match="CUDA graphs need CUDA"):
        RUNTIMES.build("torch_compile", runtime_request(), cuda_graphs=True)


@pytest.mark.slow
def test_int8_accepts_batches():
    for package in ("onnxscript", "openvino", "nncf"):
        pytest.importorskip(package, reason='pip install -e ".[export,openvino]"')
    request = runtime_request("int8")
    request = replace(request, example=request.example.repeat(2, 1, 1, 1))
    logits = RUNTIMES.build("openvino", request)(request.example)
    assert logits.shape[0] == 2 and torch.equal(logits[0], logits[1])


def test_only_classifiers_keep_their_weights_in_fp32():
    request = runtime_request("bf16")
    convolutions = [layer for layer in cast_to_precision(request, True).modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        assert layer.weight.dtype == (torch.float32 if isinstance(layer, Classifier) else torch.bfloat16)
    assert 0 < sum(isinstance(layer, Classifier) for layer in convolutions) < 5 < len(convolutions)
