"""Fully connected CRF.

The lattice is compared with exact filtering, and mean field with the original code and with a dense implementation.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segzoo.inference.dense_crf import DenseCRF, Lattice
from segzoo.inference.postprocess import CRF
from segzoo.registry import POSTS

DATA_ROOT = os.environ.get("SEGZOO_DATA", "")
DEFAULTS: dict[str, Any] = {"bilateral": (4.0, 9.0, 20.0), "gaussian": (3.0, 3.0)}


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def exact_filter(features, values):
    """Gaussian filter over every pair of points, without a lattice."""
    return torch.exp(-0.5 * torch.cdist(features.double(), features.double()).square()) @ values.double()


def scene(height=18, width=22, classes=3, seed=0):
    """An image of two noisy gray halves, and unary energies of noise."""
    image = torch.full((1, height, width, 3), 60.0)
    image[:, :, width // 2 :] = 180
    image = (image + 20 * noise(1, height, width, 3, seed=seed)).to(torch.uint8)
    return image, -noise(1, classes, height, width, seed=seed + 1).log_softmax(1) * 3


def dense_mean_field(image, unary, bilateral, gaussian, normalization, iterations):
    """Krähenbühl and Koltun's algorithm 1 with dense kernels over all pairs of pixels."""
    height, width = unary.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([columns, rows], 2).reshape(-1, 2).double()
    color = image[0].reshape(-1, 3).double()
    kernels = []
    for weight, features in (
        (bilateral[0], torch.cat([position / bilateral[1], color / bilateral[2]], 1)),
        (gaussian[0], position / gaussian[1]),
    ):
        kernel = torch.exp(-0.5 * torch.cdist(features, features).square())
        total = kernel.sum(1, keepdim=True)
        kernels.append(weight * (kernel / total if normalization == "row" else kernel / total.sqrt() / total.sqrt().T))
    energy = -unary[0].double().flatten(1).T
    belief = energy.softmax(1)
    for _ in range(iterations):
        belief = (energy + sum(kernel @ belief for kernel in kernels)).softmax(1)
    return belief.T.view(1, -1, height, width)


@pytest.mark.parametrize("dims, tolerance", [(1, 0.01), (2, 0.02), (3, 0.04), (5, 0.12)])
def test_lattice_matches_exact_filtering(dims, tolerance):
    features, values = noise(1, 400, dims) * 3, noise(400, 4, seed=1)
    lattice = Lattice(features)
    actual = lattice.filter(values) / lattice.filter(torch.ones(400, 1))
    exact = exact_filter(features[0], values) / exact_filter(features[0], torch.ones(400, 1))
    torch.testing.assert_close(actual.double(), exact, rtol=tolerance, atol=0)
    global_mean = values.mean(0, keepdim=True).expand_as(actual)  # averaging over all points must not be good enough to pass
    assert (global_mean.double() - exact).abs().max() > 3 * (actual.double() - exact).abs().max()


def test_lattice_is_linear():
    lattice = Lattice(noise(1, 200, 5) * 4)
    kernel = lattice.filter(torch.eye(200))
    values = noise(200, 3, seed=2)
    torch.testing.assert_close(lattice.filter(values), kernel @ values, rtol=1e-4, atol=1e-5)
    assert (kernel >= 0).all() and (kernel.diagonal() > 0).all()


def test_images_of_a_batch_do_not_interact():
    features, values = noise(2, 150, 5) * 4, noise(2, 150, 3, seed=3)
    batched = Lattice(features).filter(values.flatten(0, 1)).view(2, 150, 3)
    for index in range(2):
        torch.testing.assert_close(batched[index], Lattice(features[index : index + 1]).filter(values[index]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), dims=st.integers(1, 5), spread=st.floats(0.01, 300))
def test_a_point_far_from_all_others_keeps_its_value(seed, dims, spread):
    features = noise(1, 40, dims, seed=seed) * spread
    features[0, 0] += 1e4
    lattice = Lattice(features)
    values = noise(40, 2, seed=seed + 1)
    actual = lattice.filter(values)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual[0] / lattice.filter(torch.ones(40, 1))[0], values[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features", [torch.zeros(4, 2), torch.zeros(1, 4, 6), torch.zeros(1, 4, 0)], ids=str)
def test_features_of_other_shapes_are_rejected(features):
    with pytest.raises(ValueError, match=r"expected features \(B, N, d\) with d from 1 to 5"):
        Lattice(features)


@pytest.mark.parametrize("normalization", ["row", "symmetric"])
def test_mean_field_matches_dense_kernels(normalization):
    image, unary = scene()
    actual = DenseCRF(image, **DEFAULTS, normalization=normalization).marginals(unary, 5)
    expected = dense_mean_field(image, unary, **DEFAULTS, normalization=normalization, iterations=5)
    assert (actual - expected).abs().mean() < 0.02
    assert (actual.argmax(1) == expected.argmax(1)).float().mean() > 0.97
    assert ((-unary).softmax(1) - expected).abs().mean() > 0.05  # the network's own probabilities must not be good enough to pass
    torch.testing.assert_close(actual.sum(1), torch.ones_like(actual[:, 0]))


def test_the_two_normalizations_differ():
    image, unary = scene()
    row, symmetric = (DenseCRF(image, **DEFAULTS, normalization=n).marginals(unary, 5) for n in ("row", "symmetric"))
    assert (row - symmetric).abs().max() > 0.01


def test_no_iterations_or_no_terms_return_the_networks_probabilities():
    image, unary = scene()
    torch.testing.assert_close(DenseCRF(image, **DEFAULTS).marginals(unary, 0), (-unary).softmax(1))
    empty = DenseCRF(image, bilateral=(0.0, 1.0, 1.0), gaussian=(0.0, 1.0))
    torch.testing.assert_close(empty.marginals(unary, 5), (-unary).softmax(1))


def test_a_batch_matches_its_images_one_by_one():
    scenes = [scene(seed=seed) for seed in (0, 7)]
    image, unary = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    batched = DenseCRF(image, **DEFAULTS).marginals(unary, 3)
    for index, (single, energy) in enumerate(scenes):
        torch.testing.assert_close(batched[index : index + 1], DenseCRF(single, **DEFAULTS).marginals(energy, 3))


def test_post_processing_cleans_a_noisy_edge():
    image, _ = scene(24, 32)
    label = torch.zeros(1, 24, 32, dtype=torch.long)
    label[:, :, 16:] = 1
    wrong = noise(1, 24, 32, seed=5) < 0.25
    noisy = torch.where(wrong, 1 - label, label)
    probabilities = torch.where(torch.nn.functional.one_hot(noisy, 2).permute(0, 3, 1, 2) > 0, 0.7, 0.3)
    post = POSTS.build("crf", bilateral_xy=9.0)
    assert isinstance(post, CRF) and post.describe().startswith("crf bilateral_weight=4.0 bilateral_xy=9.0")
    assert (post(image, probabilities) == label).float().mean() > 0.98 > (noisy == label).float().mean()


@pytest.mark.data
@pytest.mark.skipif(not DATA_ROOT, reason="SEGZOO_DATA is not set")
@pytest.mark.parametrize("case", ["im1_anno1", "im2_anno2", "im3_anno3"])
def test_marginals_match_the_original_code(case):
    """Three images were filtered by the authors' C++ code with its later default, symmetric normalization."""
    folder = Path(DATA_ROOT) / "densecrf"
    reference = np.load(folder / f"{case}.npz")
    image = torch.from_numpy(np.array(Image.open(folder / f"{case.split('_')[0]}.png").convert("RGB")))[None]
    labels, count = torch.from_numpy(reference["labels"].astype(np.int64)), int(reference["n"])
    assert bool(reference["has_unknown"])
    known = torch.nn.functional.one_hot((labels - 1).clamp(min=0), count).permute(2, 0, 1).bool()
    probabilities = torch.where(known, 0.7, 0.3 / (count - 1))
    probabilities[:, labels == 0] = 1 / count
    dense_crf = DenseCRF(image, bilateral=(10.0, 80.0, 13.0), gaussian=(3.0, 3.0), normalization="symmetric")
    actual = {steps: dense_crf.marginals(-probabilities[None].log(), steps)[0] for steps in (1, 5, 10)}
    for steps, marginals in actual.items():
        assert (marginals - torch.from_numpy(reference[f"q{steps}"].astype(np.float32))).abs().mean() < 1e-3, steps
    expected_labels = torch.from_numpy(reference["q5"].astype(np.float32)).argmax(0)
    assert (actual[5].argmax(0) == expected_labels).float().mean() > 0.9995


def test_more_points_than_indices_are_rejected():
    with pytest.raises(ValueError, match="4 images of 100000000 pixels are too many for one lattice"):
        Lattice(torch.empty(4, 10**8, 5, device="meta"))
