"""Every model on every backbone learns one batch, survives its checkpoint and answers odd sizes: thirty steps, full width.

The default run takes one narrow pair a model; all pairs are marked slow (``pytest -m slow tests/models/test_pairs.py``, minutes).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segzoo.api import create_model, load
from segzoo.checkpoints import serialization as checkpoint
from segzoo.data.dataset_info import make_dataset_info
from segzoo.registry import LOSSES, MODELS, OPTIMS

CLASSES = ("background", "left", "corner", "dot")
BACKBONES = {
    "vgg16": {"name": "vgg16"},
    "vgg16_bn": {"name": "vgg16", "batch_norm": True},
    "resnet50": {"name": "resnet50"},
    "resnet101": {"name": "resnet101"},
    "narrow": {"name": "resnet50", "width": 0.25},
}
PAIRS = [pytest.param(model, "narrow") for model in MODELS.names()] + [
    pytest.param(model, trunk, marks=pytest.mark.slow) for model in MODELS.names() for trunk in BACKBONES if trunk != "narrow"
]
SIZES = [(33, 47), (97, 161), (360, 480)]


def fixed_batch():
    """Four noisy images of 64x64 with a stripe, a square and a dot of other colors, some pixels ignored, and the labels' entropy."""
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(4, 64, 64, dtype=torch.uint8)
    label[:, :, :20], label[:, 34:, 34:], label[:, 8:20, 40:52], label[:, 60:, :] = 1, 2, 3, 255
    colors = torch.tensor([[0.0, 0, 0], [1.5, 0, -1], [-1, 1.5, 0], [0, -1, 1.5]])
    x = colors[torch.where(label == 255, 0, label).long()].permute(0, 3, 1, 2)
    share = torch.bincount(label.flatten(), minlength=256)[:4] / (label != 255).sum()
    return x + 0.3 * torch.randn(x.shape, generator=generator), label, -(share * share.log()).sum().item()


def learn(model, rate, steps=30):
    """The main head's training loss of each step, with the model's own loss."""
    x, label, _ = fixed_batch()
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners, 255, model.loss_resolution)
    optimizer = OPTIMS.build("adamw", model.train(), lr=rate)
    curve = []
    for _ in range(steps):
        terms = loss.terms(model(x), label)
        optimizer.zero_grad()
        loss.total(terms).backward()
        optimizer.step()
        curve.append(terms[0].item())
    return curve


@pytest.mark.parametrize("model, trunk", PAIRS)
def test_a_pair_learns_one_batch_and_survives_its_checkpoint(model, trunk, tmp_path):
    torch.manual_seed(0)
    lean: dict[str, Any] = {"fc_channels": 64} if trunk == "narrow" and model in ("parsenet", "deeplab_largefov") else {}
    built = create_model(model, backbone=BACKBONES[trunk], num_classes=len(CLASSES), **lean)
    plain_vgg = trunk == "vgg16"
    curve = learn(built, 1e-4 if plain_vgg else 1e-3)
    assert all(torch.tensor(curve).isfinite())
    if plain_vgg:  # without norms it does not train from scratch; it must only fall
        assert curve[-1] < curve[0]
    else:
        assert sum(curve[-3:]) / 3 < fixed_batch()[2], curve

    config = {"model": {"name": model, **lean}, "backbone": BACKBONES[trunk]}
    info = make_dataset_info("test", CLASSES, None, (0, 0, 0), (1, 1, 1))
    again = load(checkpoint.save_checkpoint(tmp_path, 30, built, {}, config, info, {}))
    built.eval()
    for height, width in SIZES:
        x = torch.randn(1, 3, height, width)
        with torch.no_grad():
            found, wanted = again(x).main, built(x).main
        assert torch.equal(found, wanted)
        assert wanted.isfinite().all()
