"""Losses compared with torch's cross-entropy, split batches and ignored pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from segzoo.evaluation.mean_loss import MeanLoss
from segzoo.layers import resize
from segzoo.layers.resize import bilinear_matrix
from segzoo.losses._base import downsample_labels
from segzoo.registry import LOSSES
from segzoo.types import Logits

CLASSES = 5
WEIGHTS = (0.5, 2.0, 0.0, 1.0, 3.5)


SUM = {"weights": {"cross_entropy": 1.0, "dice": 0.5, "lovasz": 2.0}}  # for the loss that has no default
NAMES = LOSSES.names()


def build(name="cross_entropy", /, aux=(), align_corners=False, **settings: Any):
    return LOSSES.build(name, aux, align_corners, **(SUM | settings if name == "weighted_sum" else settings))


def random_batch(images=3, size=(17, 23), small=(6, 7), heads=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (images, *size), generator=generator, dtype=torch.uint8)
    for image in range(images):  # unequal fractions of ignored pixels
        label[image, : image * size[0] // images] = 255
    logits = [torch.randn(images, CLASSES, small[0] + k, small[1] + k, generator=generator) for k in range(heads)]
    logits = [head.mul_(3).requires_grad_() for head in logits]
    return Logits(logits[0], tuple(logits[1:])), label


def reference(head, label, align_corners, **settings):
    upsampled = F.interpolate(head, label.shape[1:], mode="bilinear", align_corners=align_corners)
    weights = settings.pop("class_weights", None)
    weights = None if weights is None else torch.tensor(weights)
    return F.cross_entropy(upsampled, label.long(), weights, ignore_index=255, **settings)


def gradients(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)


@pytest.mark.parametrize("chunk", [1, 2**24], ids=["row_by_row", "one_chunk"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.2}, {"class_weights": WEIGHTS, "label_smoothing": 0.1}],
    ids=str,
)
def test_equals_torch_at_label_size(monkeypatch, chunk, align_corners, settings):
    monkeypatch.setattr(resize, "CPU_ELEMENTS", chunk)
    logits, label = random_batch(heads=2)
    loss = build(aux=(0.4,), align_corners=align_corners, **settings)(logits, label)
    heads = (logits.main, *logits.aux)
    expected = sum(weight * reference(head, label, align_corners, **settings) for weight, head in zip((1, 0.4), heads, strict=True))
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for grad, expected_grad in zip(gradients(2 * loss, heads), gradients(2 * expected, heads), strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-7)


@given(st.integers(1, 9), st.integers(1, 40), st.booleans())
@hypothesis_settings(max_examples=80, deadline=None)
def test_bilinear_matrix_equals_interpolate(small, large, align_corners):
    values = torch.randn(1, 1, small, small, generator=torch.Generator().manual_seed(small))
    expected = F.interpolate(values, (large, small), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(bilinear_matrix(small, large, align_corners) @ values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resolution", ["label", "logits"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_losses_of_a_split_batch_add_up(name, resolution, weights):
    loss = build(name, aux=(0.4, 0.16), resolution=resolution, class_weights=weights)
    logits, label = random_batch(images=4, heads=3)
    heads = (logits.main, *logits.aux)
    whole = loss(logits, label)
    weight, total = loss.weight(label, logits), torch.zeros(())
    for part in (slice(0, 1), slice(1, 4)):  # the last image is mostly ignored
        total = total + loss(Logits(logits.main[part], tuple(head[part] for head in logits.aux)), label[part], weight)
    torch.testing.assert_close(total, whole)
    assert (weight > 0).all() and loss.terms(logits, label).shape == (3,)
    for grad, expected_grad in zip(gradients(total, heads), gradients(whole, heads), strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-7)
        assert grad.any()
    part_weights = [loss.weight(label[part], Logits(logits.main[:1], logits.aux)) for part in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(part_weights), weight)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resolution", ["label", "logits"])
def test_a_fully_ignored_batch_gives_a_connected_zero(name, resolution):
    logits, label = random_batch(heads=2)
    loss = build(name, aux=(0.4,), resolution=resolution)(logits, torch.full_like(label, 255))
    loss.backward()
    assert loss.item() == 0
    for head in (logits.main, *logits.aux):
        assert head.grad is not None and torch.equal(head.grad, torch.zeros_like(head))


def test_the_scale_of_class_weights_cancels():
    logits, label = random_batch()
    small = tuple(1e-6 * weight for weight in WEIGHTS)  # the weights of all pixels add up to far less than 1
    torch.testing.assert_close(build(class_weights=small)(logits, label), build(class_weights=WEIGHTS)(logits, label))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_classes_with_weight_zero(name):
    logits, label = random_batch()
    loss = build(name, class_weights=(0.0,) * 4 + (1.0,))(logits, torch.zeros_like(label))
    loss.backward()
    assert loss.item() == 0 and logits.main.grad is not None and not logits.main.grad.any()


@pytest.mark.parametrize("resolution", ["label", "logits"])
def test_smoothed_labels_of_classes_with_weight_zero_have_no_loss(resolution):
    logits, label = random_batch(heads=2)
    settings = {"resolution": resolution, "class_weights": (0.0,) * 4 + (1.0,), "label_smoothing": 0.1}
    loss = build(aux=(0.4,), **settings)(logits, torch.zeros_like(label))
    loss.backward()
    assert loss.item() == 0
    for head in (logits.main, *logits.aux):
        assert head.grad is not None and not head.grad.any()


@pytest.mark.parametrize("align_corners", [False, True])
def test_logit_resolution_equals_torch_on_downsampled_labels(align_corners):
    logits, label = random_batch(heads=2)
    loss = build(aux=(0.4,), align_corners=align_corners, resolution="logits", class_weights=WEIGHTS)
    weights, terms = torch.tensor(WEIGHTS), loss.terms(logits, label)
    for head, term in zip((logits.main, *logits.aux), terms, strict=True):
        downsampled = downsample_labels(label, head.shape[2:], align_corners).long()
        torch.testing.assert_close(term, F.cross_entropy(head, downsampled, weights, ignore_index=255))
    torch.testing.assert_close(loss(logits, label), terms[0] + 0.4 * terms[1])


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.booleans())
@hypothesis_settings(max_examples=100, deadline=None)
def test_downsampling_picks_distinct_pixels(height, width, small, align_corners):
    label = torch.from_numpy(np.random.default_rng(height).permutation(height * width).astype(np.int32).reshape(1, height, width))
    size = (min(small, height), min(small, width))
    downsampled = downsample_labels(label, size, align_corners)
    assert downsampled.shape == (1, *size) and downsampled.dtype == label.dtype
    assert downsampled.unique().numel() == downsampled.numel()
    if align_corners and min(size) > 1:
        assert (downsampled[0, 0, 0], downsampled[0, -1, -1]) == (label[0, 0, 0], label[0, -1, -1])


@given(st.integers(1, 12), st.integers(1, 9))
@hypothesis_settings(max_examples=40, deadline=None)
def test_unaligned_downsampling_picks_cell_centers(small, stride):
    label = torch.arange((small * stride) ** 2).view(1, small * stride, -1)
    expected = F.interpolate(label[None].float(), (small, small), mode="nearest-exact")[0]
    assert torch.equal(downsample_labels(label, (small, small), False).float(), expected)


@pytest.mark.parametrize(("large", "small", "step"), [(713, 90, 8), (1025, 257, 4), (33, 3, 16), (321, 41, 8)])
def test_aligned_corners_subsample_exactly(large, small, step):
    label = torch.arange(large, dtype=torch.int32).view(1, 1, large)
    assert torch.equal(downsample_labels(label, (1, small), True)[0, 0], label[0, 0, ::step])


def test_ohem_of_all_pixels_is_cross_entropy():
    logits, label = random_batch(heads=2)
    keep_all: list[dict[str, Any]] = [{"threshold": 1.0, "min_kept": 0.0}, {"threshold": 0.0, "min_kept": 1.0}]
    expected = build(aux=(0.4,), class_weights=WEIGHTS)(logits, label)
    for settings in keep_all:
        loss = build("ohem", aux=(0.4,), class_weights=WEIGHTS, **settings)
        torch.testing.assert_close(loss(logits, label), expected)


@pytest.mark.parametrize("resolution", ["label", "logits"])
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.3, 0.0), (0.3, 0.1), (0.3, 0.5), (0.0, 0.1), (0.0, 0.5)])
def test_ohem_equals_its_definition(monkeypatch, resolution, threshold, min_kept):
    monkeypatch.setattr(resize, "CPU_ELEMENTS", 700)
    logits, label = random_batch()
    settings = {"resolution": resolution, "threshold": threshold, "min_kept": min_kept}
    loss = build("ohem", align_corners=True, **settings)(logits, label)  # align_corners=True: no two pixels have equal losses
    upsampled = logits.main
    if resolution == "label":
        upsampled = F.interpolate(logits.main, label.shape[1:], mode="bilinear", align_corners=True)
    target = (label if resolution == "label" else downsample_labels(label, upsampled.shape[2:], True)).long()
    pixel_losses = F.cross_entropy(upsampled, target, ignore_index=255, reduction="none")
    total = torch.zeros(())
    for image_losses, ids in zip(pixel_losses, target, strict=True):
        hardest = image_losses[ids != 255].sort(descending=True).values
        below = int((torch.exp(-hardest) < threshold).sum())
        total = total + hardest[: max(below, int(np.ceil(min_kept * len(hardest))))].sum()
    expected = total / (target != 255).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, logits.main)[0], gradients(expected, logits.main)[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_fp32_under_autocast_and_no_graph_without_gradients(name):
    logits, label = random_batch()
    loss = build(name)
    half = Logits(logits.main.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        autocast_loss = loss(half, label)
        (grad,) = gradients(autocast_loss, half.main)
    assert autocast_loss.dtype == torch.float32
    expected = loss(Logits(half.main.float()), label)
    assert torch.equal(autocast_loss, expected) and torch.equal(grad, gradients(expected, half.main)[0])
    with torch.no_grad():
        value = loss(logits, label)
    assert not value.requires_grad
    torch.testing.assert_close(value, loss(logits, label).detach())


def test_wide_labels_and_evaluation_without_aux():
    logits, label = random_batch()
    loss = build(aux=(0.4,))
    torch.testing.assert_close(loss(logits, label.int()), loss(logits, label))
    assert loss.weight(label, logits).shape == (1,) and loss.terms(logits, label).shape == (1,)


def test_invalid_inputs_are_rejected():
    logits, label = random_batch(heads=2)
    with pytest.raises(ValueError, match=r"labels contain \[5, 37\]; expected 0\.\.4, or 255"):
        build(aux=(0.4,))(logits, label.index_fill(1, torch.tensor([16]), 37).index_fill(1, torch.tensor([15]), 5))
    with pytest.raises(ValueError, match="2 auxiliary weights, but the model returns 1"):
        build(aux=(0.4, 0.1))(logits, label)
    with pytest.raises(ValueError, match="class_weights has 3 values, but the model has 5"):
        build(aux=(0.4,), class_weights=(1.0, 2.0, 3.0))(logits, label)
    with pytest.raises(ValueError, match=r"expected labels \(N, H, W\)"):
        build(aux=(0.4,))(logits, label[:2])


def test_chunks_limit_the_memory(monkeypatch):
    monkeypatch.setattr(resize, "CPU_ELEMENTS", 3 * CLASSES * 23 * 4)
    sizes = [rows.stop - rows.start for rows, _ in resize.upsample_in_chunks(random_batch()[0].main, (17, 23), False)]
    assert sizes == [4, 4, 4, 4, 1]


@pytest.mark.parametrize(
    "weights", [{"cross_entropy": 1.0, "dice": 0.5}, {"dice": 0.5, "cross_entropy": 1.0}], ids=["as is", "reversed"]
)
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_over_a_data_set_is_the_loss_of_all_images_at_once(name, weights):
    settings = {"weights": weights} if name == "weighted_sum" else {}
    loss = LOSSES.build(name, (), False, **settings)
    logits, label = random_batch(images=4)
    mean = MeanLoss(loss)
    for image in range(4):
        mean.add(Logits(logits.main[image : image + 1].detach()), label[image : image + 1])
    assert mean.compute() == pytest.approx(float(loss(logits, label).detach()), rel=1e-5)
    assert MeanLoss(loss).compute() is None
