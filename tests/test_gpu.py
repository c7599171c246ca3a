"""Tests that need a CUDA device (``pytest -m gpu``).

They compare results with the CPU, train in every precision and capture CUDA graphs.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from predictions import predict_source
from runtime_requests import runtime_request
from toy_training import INFO, Toy, ToyData, make_components, make_run_dir, read_rows, settings, train, weights_hash

from segzoo.api import create_model
from segzoo.checkpoints.serialization import read_model
from segzoo.device import Precision
from segzoo.evaluation.evaluator import evaluate
from segzoo.inference.dense_crf import DenseCRF
from segzoo.inference.protocol import InferenceProtocol
from segzoo.inference.segment import predict_probabilities, segment_image
from segzoo.layers import resize
from segzoo.layers.normalize import normalize
from segzoo.layers.upsample_argmax import upsample_argmax
from segzoo.optim.ema import ModelEma
from segzoo.registry import LOSSES, MODELS, OPTIMS, RUNTIMES
from segzoo.types import Logits, Sample

DEVICE = "cuda"
STEPS = 40  # of ICNet, more than fp16 skips until it has found its scale
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class LargeToyData(ToyData):
    """Toy images that are large enough for ICNet."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        image, label = (pixels.repeat(4, 0).repeat(4, 1) for pixels in (sample.image, sample.label))
        return Sample(image, label, sample.name)


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
    for parameter in model.parameters():
        if not parameter.any():  # FCN's classifiers, whose logits would all be 0
            torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, 97, 161)
    expected = model(x).main
    assert expected.std() > 0
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
        components = make_components(
            loss=LOSSES.build("cross_entropy", (0.4,), False)
        )  # torch's sum over pixels is not deterministic
        train(components, make_run_dir(tmp_path / str(index)), **settings(device=DEVICE, deterministic=True))
        hashes.add(weights_hash(components.model.cpu()))
    assert len(hashes) == 1


@pytest.mark.parametrize("elements", [2**24, 5000])
def test_upsampled_labels_match_the_cpu(elements, monkeypatch):
    monkeypatch.setattr(resize, "DEVICE_ELEMENTS", elements)
    logits = torch.randn(2, 7, 13, 17, generator=torch.Generator().manual_seed(0))
    for align_corners in (True, False):
        expected = upsample_argmax(logits, (100, 130), align_corners)
        equal = upsample_argmax(logits.to(DEVICE), (100, 130), align_corners).cpu() == expected
        assert equal.float().mean() > 0.9999


@pytest.mark.parametrize(
    "protocol",
    [
        InferenceProtocol(crop=(65, 65), stride=(40, 40), batch=2),
        InferenceProtocol(scales=(0.75, 1.0, 1.5), flip=True),
        InferenceProtocol(crop=(65, 65), scales=(1.0, 1.25), flip=True, average="logits", window_weights="gaussian"),
    ],
    ids=["windows", "scales", "both"],
)
def test_protocols_match_the_cpu(protocol):
    torch.manual_seed(0)
    model: Any = create_model("icnet", backbone={"name": "resnet50", "width": 0.25}, num_classes=3).eval()
    image = torch.from_numpy(LargeToyData(1)[0].image[None])
    results = []
    for device in ("cpu", DEVICE):
        precision = Precision("fp32", torch.device(device))
        x = normalize(image, INFO, precision.device)
        arguments = (model.to(device), x, image, protocol, precision)
        probabilities = predict_probabilities(model, x, protocol, precision)
        results.append((segment_image(*arguments).cpu(), probabilities.cpu()))
    (labels, expected), (actual_labels, actual) = results
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-3)
    assert (labels == actual_labels).float().mean() > 0.99


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "in tiles"])
def test_predictions_of_files_match_the_cpu(tmp_path, large):
    torch.manual_seed(0)
    model, images = Toy().eval(), ToyData(5)
    (tmp_path / "images").mkdir()
    for index in range(5):
        Image.fromarray(images[index].image).save(tmp_path / f"images/{index}.png")
    options: dict[str, Any] = {"stream_megapixels": 0.0005} if large else {"confidence": "max", "batch": 3}
    for device in ("cpu", DEVICE):
        assert predict_source(model, INFO, tmp_path / device, tmp_path / "images", device=device, **options)["images"] == 5
    for path in (tmp_path / "cpu").rglob("labels/*.png"):
        one, other = (np.asarray(Image.open(each)) for each in (path, tmp_path / DEVICE / path.relative_to(tmp_path / "cpu")))
        assert (one == other).mean() > 0.99


def test_icnet_learns_in_fp16_with_clipping_accumulation_and_a_fused_optimizer(tmp_path):
    torch.manual_seed(0)
    model: Any = create_model("icnet", backbone={"name": "resnet50", "width": 0.25}, num_classes=3)
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners)
    components = make_components(model, LargeToyData(10), LargeToyData(3, first=100), loss)
    components.make_optimizer = lambda net: OPTIMS.build("sgd", net, lr=0.01)
    before = weights_hash(model)
    options: dict[str, Any] = {"precision": "fp16", "clip_grad_norm": 1.0, "grad_accum_steps": 2, "batch_size": 2, "ema_decay": 0.9}
    train(components, make_run_dir(tmp_path), **settings(device=DEVICE, steps=STEPS, eval_every=STEPS, log_every=1, **options))
    losses = [row["loss"] for row in read_rows(tmp_path, "train")]
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < np.mean(losses[:5])
    assert weights_hash(model.cpu()) != before and all(tensor.isfinite().all() for tensor in model.state_dict().values())


def continue_from(source: Path, step: int, directory: Path) -> None:
    """Copy a run as if it had been killed after a step."""
    shutil.copytree(
        source, directory, ignore=lambda _, names: [n for n in names if n in ("last", "best") or n.isdigit() and int(n) > step]
    )


def train_toy(directory: Path, device: str, drop: float = 0.0) -> str:
    """Train for eight steps, or to the eighth, and return a hash of the weights."""
    torch.manual_seed(3)
    components = make_components(Toy(drop=drop), loss=LOSSES.build("cross_entropy", (0.4,), False))
    options = {"steps": 8, "eval_every": 4, "save_every": 4, "keep_checkpoints": 9, "ema_decay": 0.5, "deterministic": True}
    train(components, make_run_dir(directory), **settings(device=device, **options))
    return weights_hash(components.model.cpu())


def test_a_resumed_run_is_bit_identical(tmp_path):
    expected = train_toy(tmp_path / "whole", DEVICE, drop=0.2)  # whose random numbers come from the GPU
    continue_from(tmp_path / "whole", 4, tmp_path / "resumed")
    assert train_toy(tmp_path / "resumed", DEVICE, drop=0.2) == expected


def test_a_run_continues_on_another_device(tmp_path):
    for device in ("cpu", DEVICE):
        train_toy(tmp_path / device, device)
    for first, second in (("cpu", DEVICE), (DEVICE, "cpu")):
        continued = tmp_path / f"from {first}"
        continue_from(tmp_path / first, 4, continued)
        train_toy(continued, second)
        expected, actual = (read_model(run / "checkpoints/8")[0] for run in (tmp_path / "cpu", continued))
        for name, tensor in expected.items():
            torch.testing.assert_close(actual[name], tensor, rtol=1e-2, atol=1e-3)


def test_an_average_of_weights_matches_the_cpu():
    torch.manual_seed(0)
    states = []
    start, steps = Toy(), [Toy() for _ in range(3)]
    for device in ("cpu", DEVICE):
        model = Toy().to(device)
        model.load_state_dict(start.state_dict())
        ema = ModelEma(model, 0.9)
        for other in steps:
            model.load_state_dict(other.state_dict())
            ema.update()
        states.append({name: tensor.cpu() for name, tensor in ema.tensors.items()})
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-6, atol=1e-7)


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
