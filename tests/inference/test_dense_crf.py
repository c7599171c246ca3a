"""The fully connected CRF: the lattice against exact filtering, mean field against the original code and against first principles."""

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
    """Every pair of points, with no lattice."""
    return torch.exp(-0.5 * torch.cdist(features.double(), features.double()).square()) @ values.double()


def scene(height=18, width=22, classes=3, seed=0):
    """An image of two gray halves with noise, and energies that guess at them."""
    image = torch.full((1, height, width, 3), 60.0)
    image[:, :, width // 2 :] = 180
    image = (image + 20 * noise(1, height, width, 3, seed=seed)).to(torch.uint8)
    return image, -noise(1, classes, height, width, seed=seed + 1).log_softmax(1) * 3


def mean_field_by_hand(image, unary, bilateral, gaussian, normalization, iterations):
    """Krähenbühl and Koltun's algorithm 1 with kernels of every pair of pixels."""
    height, width = unary.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([columns, rows], 2).reshape(-1, 2).double()
    color = image[0].reshape(-1, 3).double()
    kernels = []
    for weight, features in (
        (bilateral[0], torch.cat([place / bilateral[1], color / bilateral[2]], 1)),
        (gaussian[0], place / gaussian[1]),
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
def test_lattice_averages_as_exact_filtering_does(dims, tolerance):
    features, values = noise(1, 400, dims) * 3, noise(400, 4, seed=1)
    lattice = Lattice(features)
    found = lattice.filter(values) / lattice.filter(torch.ones(400, 1))
    exact = exact_filter(features[0], values) / exact_filter(features[0], torch.ones(400, 1))
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=0)
    blind = values.mean(0, keepdim=True).expand_as(found)  # averaging over all points alike is not good enough to pass
    assert (blind.double() - exact).abs().max() > 3 * (found.double() - exact).abs().max()


def test_lattice_is_linear():
    lattice = Lattice(noise(1, 200, 5) * 4)
    kernel = lattice.filter(torch.eye(200))
    values = noise(200, 3, seed=2)
    torch.testing.assert_close(lattice.filter(values), kernel @ values, rtol=1e-4, atol=1e-5)
    assert (kernel >= 0).all() and (kernel.diagonal() > 0).all()


def test_pictures_of_a_batch_do_not_meet():
    features, values = noise(2, 150, 5) * 4, noise(2, 150, 3, seed=3)
    together = Lattice(features).filter(values.flatten(0, 1)).view(2, 150, 3)
    for index in range(2):
        torch.testing.assert_close(together[index], Lattice(features[index : index + 1]).filter(values[index]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), dims=st.integers(1, 5), spread=st.floats(0.01, 300))
def test_a_point_far_from_all_others_keeps_its_value(seed, dims, spread):
    features = noise(1, 40, dims, seed=seed) * spread
    features[0, 0] += 1e4
    lattice = Lattice(features)
    values = noise(40, 2, seed=seed + 1)
    found = lattice.filter(values)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0] / lattice.filter(torch.ones(40, 1))[0], values[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("features", [torch.zeros(4, 2), torch.zeros(1, 4, 6), torch.zeros(1, 4, 0)], ids=str)
def test_features_of_other_shapes_are_refused(features):
    with pytest.raises(ValueError, match=r"wanted features \(B, N, d\) with d from 1 to 5"):
        Lattice(features)


@pytest.mark.parametrize("normalization", ["row", "symmetric"])
def test_mean_field_equals_every_pair_counted(normalization):
    image, unary = scene()
    found = DenseCRF(image, **DEFAULTS, normalization=normalization).marginals(unary, 5)
    wanted = mean_field_by_hand(image, unary, **DEFAULTS, normalization=normalization, iterations=5)
    assert (found - wanted).abs().mean() < 0.02
    assert (found.argmax(1) == wanted.argmax(1)).float().mean() > 0.97
    assert ((-unary).softmax(1) - wanted).abs().mean() > 0.05  # what the network said is not good enough to pass
    torch.testing.assert_close(found.sum(1), torch.ones_like(found[:, 0]))


def test_the_two_normalisations_differ():
    image, unary = scene()
    row, symmetric = (DenseCRF(image, **DEFAULTS, normalization=n).marginals(unary, 5) for n in ("row", "symmetric"))
    assert (row - symmetric).abs().max() > 0.01


def test_no_steps_and_no_terms_leave_the_network_alone():
    image, unary = scene()
    torch.testing.assert_close(DenseCRF(image, **DEFAULTS).marginals(unary, 0), (-unary).softmax(1))
    empty = DenseCRF(image, bilateral=(0.0, 1.0, 1.0), gaussian=(0.0, 1.0))
    torch.testing.assert_close(empty.marginals(unary, 5), (-unary).softmax(1))


def test_a_batch_gives_what_its_pictures_give():
    scenes = [scene(seed=seed) for seed in (0, 7)]
    image, unary = (torch.cat(parts) for parts in zip(*scenes, strict=True))
    together = DenseCRF(image, **DEFAULTS).marginals(unary, 3)
    for index, (picture, energy) in enumerate(scenes):
        torch.testing.assert_close(together[index : index + 1], DenseCRF(picture, **DEFAULTS).marginals(energy, 3))


def test_the_post_step_cleans_a_noisy_edge():
    image, _ = scene(24, 32)
    truth = torch.zeros(1, 24, 32, dtype=torch.long)
    truth[:, :, 16:] = 1
    wrong = noise(1, 24, 32, seed=5) < 0.25
    guess = torch.where(wrong, 1 - truth, truth)
    probabilities = torch.where(torch.nn.functional.one_hot(guess, 2).permute(0, 3, 1, 2) > 0, 0.7, 0.3)
    step = POSTS.build("crf", bilateral_xy=9.0)
    assert isinstance(step, CRF) and step.describe().startswith("crf bilateral_weight=4.0 bilateral_xy=9.0")
    assert (step(image, probabilities) == truth).float().mean() > 0.98 > (guess == truth).float().mean()


@pytest.mark.data
@pytest.mark.skipif(not DATA_ROOT, reason="SEGZOO_DATA names no folder with real data")
@pytest.mark.parametrize("case", ["im1_anno1", "im2_anno2", "im3_anno3"])
def test_marginals_are_those_of_the_original_code(case):
    """Three images filtered by the authors' C++ code, later default: symmetric normalization."""
    folder = Path(DATA_ROOT) / "densecrf"
    kept = np.load(folder / f"{case}.npz")
    image = torch.from_numpy(np.array(Image.open(folder / f"{case.split('_')[0]}.png").convert("RGB")))[None]
    labels, count = torch.from_numpy(kept["labels"].astype(np.int64)), int(kept["n"])
    assert bool(kept["has_unknown"])
    known = torch.nn.functional.one_hot((labels - 1).clamp(min=0), count).permute(2, 0, 1).bool()
    probabilities = torch.where(known, 0.7, 0.3 / (count - 1))
    probabilities[:, labels == 0] = 1 / count
    field = DenseCRF(image, bilateral=(10.0, 80.0, 13.0), gaussian=(3.0, 3.0), normalization="symmetric")
    found = {steps: field.marginals(-probabilities[None].log(), steps)[0] for steps in (1, 5, 10)}
    for steps, marginals in found.items():
        assert (marginals - torch.from_numpy(kept[f"q{steps}"].astype(np.float32))).abs().mean() < 1e-3, steps
    labels_wanted = torch.from_numpy(kept["q5"].astype(np.float32)).argmax(0)
    assert (found[5].argmax(0) == labels_wanted).float().mean() > 0.9995
