"""The losses against torch's own cross-entropy, and what splitting, ignoring and shrinking must not change."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from segzoo.layers.resize import bilinear_matrix
from segzoo.losses import _chunked as _grow
from segzoo.losses._base import downsample_labels
from segzoo.registry import LOSSES
from segzoo.types import Logits

CLASSES = 5
WEIGHTS = (0.5, 2.0, 0.0, 1.0, 3.5)


def build(name="cross_entropy", /, aux=(), align_corners=False, **given: Any):
    return LOSSES.build(name, aux, align_corners, **given)


def scene(images=3, size=(17, 23), small=(5, 7), heads=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (images, *size), generator=generator, dtype=torch.uint8)
    for image in range(images):  # unequal shares of ignored pixels
        label[image, : image * size[0] // images] = 255
    maps = [torch.randn(images, CLASSES, small[0] + k, small[1] + k, generator=generator) for k in range(heads)]
    maps = [one.mul_(3).requires_grad_() for one in maps]
    return Logits(maps[0], tuple(maps[1:])), label


def oracle(head, label, align_corners, **given):
    grown = F.interpolate(head, label.shape[1:], mode="bilinear", align_corners=align_corners)
    weights = given.pop("class_weights", None)
    return F.cross_entropy(grown, label.long(), None if weights is None else torch.tensor(weights), ignore_index=255, **given)


def gradients(loss, maps):
    return torch.autograd.grad(loss, maps, retain_graph=True)


@pytest.mark.parametrize("strip", [1, 2**24], ids=["row_by_row", "one_strip"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    "given", [{}, {"class_weights": WEIGHTS}, {"label_smoothing": 0.2}, {"class_weights": WEIGHTS, "label_smoothing": 0.1}], ids=str
)
def test_equals_torch_at_label_size(monkeypatch, strip, align_corners, given):
    monkeypatch.setattr(_grow, "CPU_ELEMENTS", strip)
    logits, label = scene(heads=2)
    loss = build(aux=(0.4,), align_corners=align_corners, **given)(logits, label)
    maps = (logits.main, *logits.aux)
    wanted = sum(factor * oracle(head, label, align_corners, **given) for factor, head in zip((1, 0.4), maps, strict=True))
    assert isinstance(wanted, torch.Tensor)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
    for got, grad in zip(gradients(2 * loss, maps), gradients(2 * wanted, maps), strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-4, atol=1e-7)


@given(st.integers(1, 9), st.integers(1, 40), st.booleans())
@settings(max_examples=80, deadline=None)
def test_bilinear_matrix_equals_interpolate(small, large, align_corners):
    values = torch.randn(1, 1, small, small, generator=torch.Generator().manual_seed(small))
    wanted = F.interpolate(values, (large, small), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(bilinear_matrix(small, large, align_corners) @ values, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "ohem"])
@pytest.mark.parametrize("at", ["label", "logits"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_parts_add_up_to_the_whole(name, at, weights):
    loss = build(name, aux=(0.4, 0.16), at=at, class_weights=weights)
    logits, label = scene(images=4, heads=3)
    maps = (logits.main, *logits.aux)
    whole = loss(logits, label)
    weight, total = loss.weight(label, logits), torch.zeros(())
    for part in (slice(0, 1), slice(1, 4)):  # the last image is mostly ignored
        total = total + loss(Logits(logits.main[part], tuple(a[part] for a in logits.aux)), label[part], weight)
    torch.testing.assert_close(total, whole)
    for got, grad in zip(gradients(total, maps), gradients(whole, maps), strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-4, atol=1e-7)
    lent = [loss.weight(label[part], Logits(logits.main[:1], logits.aux)) for part in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(lent), weight)


@pytest.mark.parametrize("name", ["cross_entropy", "ohem"])
@pytest.mark.parametrize("at", ["label", "logits"])
def test_all_ignored_is_a_connected_zero(name, at):
    logits, label = scene(heads=2)
    loss = build(name, aux=(0.4,), at=at)(logits, torch.full_like(label, 255))
    loss.backward()
    assert loss.item() == 0
    for head in (logits.main, *logits.aux):
        assert head.grad is not None and torch.equal(head.grad, torch.zeros_like(head))


def test_only_classes_of_weight_zero():
    logits, label = scene()
    loss = build(class_weights=(0.0,) * 4 + (1.0,))(logits, torch.zeros_like(label))
    loss.backward()
    assert loss.item() == 0 and logits.main.grad is not None and not logits.main.grad.any()


@pytest.mark.parametrize("align_corners", [False, True])
def test_at_logits_equals_torch_on_the_picked_labels(align_corners):
    logits, label = scene(heads=2)
    loss = build(aux=(0.4,), align_corners=align_corners, at="logits", class_weights=WEIGHTS)
    weights, terms = torch.tensor(WEIGHTS), loss.terms(logits, label)
    for head, term in zip((logits.main, *logits.aux), terms, strict=True):
        picked = downsample_labels(label, head.shape[2:], align_corners).long()
        torch.testing.assert_close(term, F.cross_entropy(head, picked, weights, ignore_index=255))
    torch.testing.assert_close(loss(logits, label), terms[0] + 0.4 * terms[1])


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=100, deadline=None)
def test_shrinking_only_picks(height, width, small, align_corners):
    label = torch.from_numpy(np.random.default_rng(height).permutation(height * width).astype(np.int32).reshape(1, height, width))
    size = (min(small, height), min(small, width))
    picked = downsample_labels(label, size, align_corners)
    assert picked.shape == (1, *size) and picked.dtype == label.dtype and picked.unique().numel() == picked.numel()
    if align_corners and min(size) > 1:
        assert (picked[0, 0, 0], picked[0, -1, -1]) == (label[0, 0, 0], label[0, -1, -1])


@given(st.integers(1, 12), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_cells_are_picked_in_their_middle(small, stride):
    label = torch.arange((small * stride) ** 2).view(1, small * stride, -1)
    wanted = F.interpolate(label[None].float(), (small, small), mode="nearest-exact")[0]
    assert torch.equal(downsample_labels(label, (small, small), False).float(), wanted)


@pytest.mark.parametrize(("large", "small", "step"), [(713, 90, 8), (1025, 257, 4), (33, 3, 16), (321, 41, 8)])
def test_aligned_corners_subsample_exactly(large, small, step):
    label = torch.arange(large, dtype=torch.int32).view(1, 1, large)
    assert torch.equal(downsample_labels(label, (1, small), True)[0, 0], label[0, 0, ::step])


def test_ohem_keeping_all_is_cross_entropy():
    logits, label = scene(heads=2)
    settings_that_keep_all: list[dict[str, Any]] = [{"threshold": 1.0, "min_kept": 0.0}, {"threshold": 0.0, "min_kept": 1.0}]
    for all_kept in settings_that_keep_all:
        got, wanted = build("ohem", aux=(0.4,), class_weights=WEIGHTS, **all_kept), build(aux=(0.4,), class_weights=WEIGHTS)
        torch.testing.assert_close(got(logits, label), wanted(logits, label))


@pytest.mark.parametrize(("at", "threshold", "min_kept"), list(itertools.product(["label", "logits"], [0.3, 0.0], [0.0, 0.1, 0.5])))
def test_ohem_equals_its_definition(monkeypatch, at, threshold, min_kept):
    monkeypatch.setattr(_grow, "CPU_ELEMENTS", 700)
    logits, label = scene()
    got = build("ohem", at=at, align_corners=True, threshold=threshold, min_kept=min_kept)(
        logits, label
    )  # True: no two pixels alike
    grown = F.interpolate(logits.main, label.shape[1:], mode="bilinear", align_corners=True) if at == "label" else logits.main
    target = (label if at == "label" else downsample_labels(label, grown.shape[2:], True)).long()
    losses = F.cross_entropy(grown, target, ignore_index=255, reduction="none")
    total = torch.zeros(())
    for one, ids in zip(losses, target, strict=True):
        hard = one[ids != 255].sort(descending=True).values
        below = int((torch.exp(-hard) < threshold).sum())
        total = total + hard[: max(below, int(np.ceil(min_kept * len(hard))))].sum()
    wanted = total / (target != 255).sum()
    torch.testing.assert_close(got, wanted)
    if threshold or min_kept:
        torch.testing.assert_close(gradients(got, logits.main)[0], gradients(wanted, logits.main)[0], rtol=1e-4, atol=1e-7)


def test_fp32_under_autocast_and_no_graph_without_gradients():
    logits, label = scene()
    loss = build()
    half = Logits(logits.main.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        under = loss(half, label)
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, loss(Logits(half.main.float()), label))
    with torch.no_grad():
        value = loss(logits, label)
    assert not value.requires_grad
    torch.testing.assert_close(value, loss(logits, label).detach())


def test_wide_labels_and_evaluation_without_aux():
    logits, label = scene()
    loss = build(aux=(0.4,))
    torch.testing.assert_close(loss(logits, label.int()), loss(logits, label))
    assert loss.weight(label, logits).shape == (1,) and loss.terms(logits, label).shape == (1,)


def test_faults_are_named():
    logits, label = scene(heads=2)
    with pytest.raises(ValueError, match=r"labels hold \[5, 37\]; wanted 0\.\.4, or 255"):
        build(aux=(0.4,))(logits, label.index_fill(1, torch.tensor([16]), 37).index_fill(1, torch.tensor([15]), 5))
    with pytest.raises(ValueError, match="2 auxiliary weights, the model answers 1"):
        build(aux=(0.4, 0.1))(logits, label)
    with pytest.raises(ValueError, match="class_weights has 3 numbers, the model 5"):
        build(aux=(0.4,), class_weights=(1.0, 2.0, 3.0))(logits, label)
    with pytest.raises(ValueError, match=r"wanted labels \(N, H, W\)"):
        build(aux=(0.4,))(logits, label[:2])


def test_strips_bound_the_memory(monkeypatch):
    monkeypatch.setattr(_grow, "CPU_ELEMENTS", 3 * CLASSES * 23 * 4)
    sizes = [rows.stop - rows.start for rows, _ in _grow.upsample_in_chunks(scene()[0].main, (17, 23), False)]
    assert sizes == [4, 4, 4, 4, 1]
