"""What only a CUDA device can show (``pytest -m gpu``): the same answers as on the CPU, training in every number format, captured graphs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from test_runtimes import order
from toy_training import INFO, Toy, ToyData, make_components, make_run_dir, settings, train, weights_hash

from segzoo.api import create_model
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.dense_crf import DenseCRF
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.registry import MODELS, RUNTIMES

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """fp32 means fp32, and cuBLAS may be asked for the same bits again."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize("lean", [False, True])
@torch.no_grad()
def test_networks_answer_as_on_the_cpu(name, lean):
    torch.manual_seed(0)
    model: Any = create_model(name, backbone={"name": "resnet50", "width": 0.25, "stem": "deep"}, num_classes=5).eval()
    if lean:
        model.fuse_for_inference_()
    x = torch.randn(2, 3, 97, 161)
    wanted = model(x).main
    found = model.to(DEVICE)(x.to(DEVICE)).main.cpu()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_number_format_learns(tmp_path, precision):
    components = make_components()
    train(components, make_run_dir(tmp_path), **settings(device=DEVICE, precision=precision, steps=40, log_every=1, workers=1))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["split"] == "train"]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert {parameter.dtype for parameter in components.model.parameters()} == {torch.float32}


def test_scores_are_those_of_the_cpu():
    torch.manual_seed(0)
    model, data = Toy().eval(), ToyData(4)
    one, other = (evaluate(model.to(place), data, INFO, device=place, precision="fp32").scores for place in ("cpu", DEVICE))
    assert other.miou == pytest.approx(one.miou, abs=2e-3)


def test_a_deterministic_run_gives_the_same_bits_twice(tmp_path):
    hashes = set()
    for turn in range(2):
        components = make_components()
        train(components, make_run_dir(tmp_path / str(turn)), **settings(device=DEVICE, deterministic=True))
        hashes.add(weights_hash(components.model.cpu()))
    assert len(hashes) == 1


def test_labels_grow_as_on_the_cpu():
    logits = torch.randn(2, 7, 13, 17, generator=torch.Generator().manual_seed(0))
    for align in (True, False):
        equal = upsample_argmax(logits.to(DEVICE), (100, 130), align).cpu() == upsample_argmax(logits, (100, 130), align)
        assert equal.float().mean() > 0.9999


def test_the_crf_gives_the_marginals_of_the_cpu():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (1, 40, 50, 3), dtype=np.uint8))
    unary = torch.from_numpy(rng.normal(size=(1, 4, 40, 50)).astype(np.float32))
    wanted = DenseCRF(image).marginals(unary)
    found = DenseCRF(image.to(DEVICE)).marginals(unary.to(DEVICE)).cpu()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name, words", [("eager", {}), ("torch_compile", {}), ("torch_compile", {"cuda_graphs": True})])
def test_runtimes_give_the_networks_scores(name, words, precision):
    given = order(precision)
    with torch.no_grad():
        wanted = given.model(given.example)[0]
    given.model.to(DEVICE)
    given = type(given)(given.model, given.example.to(DEVICE), precision, given.calibration_images)
    call = RUNTIMES.build(name, given, **words)
    for _ in range(3):  # a graph is captured at the second call
        error = (call(given.example).cpu() - wanted).abs().mean() / wanted.abs().mean()
        assert error < {"fp32": 1e-3, "fp16": 0.03, "bf16": 0.1}[precision]
