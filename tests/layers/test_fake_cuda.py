"""Forward passes, losses and labels launch few operations on a GPU and never wait for it."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from fake_cuda import Operations, fake_cuda
from toy_training import INFO

from segzoo import device
from segzoo.api import create_model
from segzoo.inference.passes import score_rows
from segzoo.layers import normalize, resize
from segzoo.layers.upsample_argmax import best_class, upsample_argmax
from segzoo.losses import _base, _region, focal
from segzoo.registry import LOSSES
from segzoo.types import Logits

CLASS_WEIGHTS = (1.0, 2.0, 0.5)


def empty(*size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(size, dtype=dtype, device="cuda")


@pytest.fixture(autouse=True)
def _made_before(monkeypatch):
    """Constants are made once, before the passes that count."""
    made = lru_cache(lambda values, dtype, device: torch.empty(len(values), dtype=dtype, device=device))
    for module in (_base, _region, focal, normalize):
        monkeypatch.setattr(module, "constant", made)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("name", ["pspnet", "icnet"])
def test_a_forward_pass_copies_nothing_from_the_cpu(name, is_training):
    with fake_cuda() as operations:
        with torch.device("cuda"):
            model = create_model(name, backbone={"name": "resnet50", "width": 0.125}, num_classes=3).train(is_training)
        operations.copies.clear()
        model(empty(2, 3, 97, 97))
    assert operations.copies == []


def test_only_the_image_is_copied_to_be_normalized():
    with fake_cuda() as operations:
        normalize.normalize(torch.empty(1, 8, 8, 3, dtype=torch.uint8), INFO, torch.device("cuda"))
    assert operations.copies == ["aten._to_copy.default"]


@pytest.mark.parametrize("resolution", ["label", "logits"])
@pytest.mark.parametrize("name", sorted(set(LOSSES.names()) - {"lovasz"}))  # which needs the ids of the classes that are present
def test_a_loss_copies_nothing_from_the_cpu(name, resolution):
    options = {"weights": {"cross_entropy": 1.0, "dice": 1.0}} if name == "weighted_sum" else {}
    loss = LOSSES.build(name, (0.4,), True, resolution=resolution, class_weights=CLASS_WEIGHTS, **options)
    with fake_cuda() as operations:
        logits = Logits(empty(2, 3, 17, 17), (empty(2, 3, 9, 9),))
        loss(logits, empty(2, 65, 65, dtype=torch.uint8))
    assert operations.copies == []


def test_upsampled_rows_copy_nothing_from_the_cpu():
    scores = torch.empty(3, 9, 9, device="meta")  # stands for CUDA, as the bounds of strips need values on the CPU
    with Operations() as operations:
        rows = score_rows.resized(score_rows.stored(scores), (9, 9), (65, 65), align_corners=True)
        assert rows(0, 8).is_meta and rows(8, 16).is_meta
    assert operations.copies == []


@pytest.mark.parametrize("num_classes", [19, 150])
def test_labels_of_a_large_image_take_few_operations(num_classes):
    with fake_cuda() as operations:
        labels = upsample_argmax(empty(1, num_classes, 65, 129), (512, 1024), align_corners=True)
        assert labels.shape == (1, 512, 1024) and labels.dtype == torch.uint8
        best_class(empty(num_classes, 64, 1024))
    assert operations.copies == [] and operations.count < 100


@pytest.mark.parametrize("align_corners", [True, False])
def test_chunks_have_the_same_labels_as_strips(align_corners):
    logits = torch.randn(2, 7, 9, 13, generator=torch.Generator().manual_seed(0))
    chunks = resize.upsample_in_chunks(logits, (70, 99), align_corners)
    expected = torch.cat([upsampled.argmax(1) for _, upsampled in chunks], 1)
    assert (upsample_argmax(logits, (70, 99), align_corners) == expected).float().mean() > 0.9999
    (strip,) = resize.probability_strips(logits[:1], (70, 99), align_corners, rows=70)
    ((_, whole),) = resize.upsample_in_chunks(logits[:1], (70, 99), align_corners, whole=True)
    torch.testing.assert_close(strip, whole[0].softmax(0))


def test_a_constant_is_made_once_for_every_use():
    with torch.inference_mode():
        values = device.constant((1.0, 2.5), torch.float32, torch.device("cpu"))
    assert values.tolist() == [1.0, 2.5] and not values.is_inference()
    assert device.constant((1.0, 2.5), torch.float32, torch.device("cpu")) is values
    with fake_cuda():
        device.constant((0.1, 0.7), torch.float32, torch.device("cuda"))
    assert all(type(tensor) is torch.Tensor for tensor in device._constants.values())
