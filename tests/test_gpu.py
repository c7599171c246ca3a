"""Tests that need a CUDA device (``pytest -m gpu``).

They compare results with the CPU, train in every precision and capture CUDA graphs.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from runtime_requests import runtime_request
from toy_training import INFO, Toy, ToyData, make_components, make_run_dir, settings, train, weights_hash

from segzoo.api import create_model
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.dense_crf import DenseCRF
from segzoo.layers.normalize import normalize
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.registry import LOSSES, MODELS, RUNTIMES
from segzoo.types import Logits

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """Disable TF32, and configure cuBLAS for deterministic results."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_samples_of_16_bits_are_normalized_alike():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (2, 40, 56, 1), dtype=np.uint16))
    info = replace(INFO, mean=(30000.0,), std=(9000.0,), bits=16)
    expected, actual = (normalize(images, info, torch.device(device)) for device in ("cpu", DEVICE))
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("fused", [False, True])
@torch.no_grad()
def test_networks_match_the_cpu(name, fused):
    torch.manual_seed(0)
    model: Any = create_model(name, backbone={"name": "resnet50", "width": 0.25, "stem": "deep"}, num_classes=5).eval()
    if fused:
        model.fuse_for_inference_()
    x = torch.randn(2, 3, 97, 161)
    expected = model(x).main
    actual = model.to(DEVICE)(x.to(DEVICE)).main.cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", LOSSES.names())
def test_losses_match_the_cpu_with_deterministic_operations(name):
    options = {"weights": {"cross_entropy": 1.0, "dice": 1.0, "lovasz": 1.0}} if name == "weighted_sum" else {}
    loss = LOSSES.build(name, (), False, class_weights=(1.0, 2.0, 0.5), **options)
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (2, 40, 56), generator=generator, dtype=torch.uint8)
    label[0, :9] = 255
    main = torch.randn(2, 3, 10, 14, generator=generator)
    torch.use_deterministic_algorithms(True)
    values, gradients = [], []
    for device in ("cpu", DEVICE, DEVICE):
        head = main.to(device).requires_grad_()
        value = loss(Logits(head), label.to(device))
        gradients.append(torch.autograd.grad(value, head)[0].cpu())
        values.append(value.detach().cpu())
    torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)
    assert torch.equal(values[1], values[2]) and torch.equal(gradients[1], gradients[2])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(tmp_path, precision):
    components = make_components()
    train(components, make_run_dir(tmp_path), **settings(device=DEVICE, precision=precision, steps=40, log_every=1, workers=1))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert {parameter.dtype for parameter in components.model.parameters()} == {torch.float32}


def test_scores_match_the_cpu():
    torch.manual_seed(0)
    model, data = Toy().eval(), ToyData(4)
    cpu, cuda = (evaluate(model.to(device), data, INFO, device=device, precision="fp32").scores for device in ("cpu", DEVICE))
    assert cuda.miou == pytest.approx(cpu.miou, abs=2e-3)


def test_predictions_match_the_cpu():
    torch.manual_seed(0)
    model = create_model("icnet", backbone={"name": "resnet50", "width": 0.25}, num_classes=3).eval()
    model.info = INFO
    images = [ToyData(2, vary=True)[index].image.repeat(4, 0).repeat(4, 1) for index in (0, 1, 0)]
    expected = model.predict(images, probabilities=True)
    for one, other in zip(expected, model.to(DEVICE).predict(images, probabilities=True), strict=True):
        assert one.probabilities is not None and other.probabilities is not None
        assert (one.labels == other.labels).mean() > 0.99 and np.abs(one.probabilities - other.probabilities).max() < 1e-3


def test_deterministic_runs_are_bit_identical(tmp_path):
    hashes = set()
    for index in range(2):
        components = make_components()
        train(components, make_run_dir(tmp_path / str(index)), **settings(device=DEVICE, deterministic=True))
        hashes.add(weights_hash(components.model.cpu()))
    assert len(hashes) == 1


def test_upsampled_labels_match_the_cpu():
    logits = torch.randn(2, 7, 13, 17, generator=torch.Generator().manual_seed(0))
    for align_corners in (True, False):
        expected = upsample_argmax(logits, (100, 130), align_corners)
        equal = upsample_argmax(logits.to(DEVICE), (100, 130), align_corners).cpu() == expected
        assert equal.float().mean() > 0.9999


def test_crf_marginals_match_the_cpu():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (1, 40, 50, 3), dtype=np.uint8))
    unary = torch.from_numpy(rng.normal(size=(1, 4, 40, 50)).astype(np.float32))
    expected = DenseCRF(image).marginals(unary)
    actual = DenseCRF(image.to(DEVICE)).marginals(unary.to(DEVICE)).cpu()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name, settings", [("eager", {}), ("torch_compile", {}), ("torch_compile", {"cuda_graphs": True})])
def test_runtimes_match_the_networks_logits(name, settings, precision):
    request = runtime_request(precision)
    with torch.no_grad():
        expected = request.model(request.example)[0]
    request.model.to(DEVICE)
    request = replace(request, example=request.example.to(DEVICE))
    run = RUNTIMES.build(name, request, **settings)
    for _ in range(3):  # a graph is captured in the second call
        error = (run(request.example).cpu() - expected).abs().mean() / expected.abs().mean()
        assert error < {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.1}[precision]
