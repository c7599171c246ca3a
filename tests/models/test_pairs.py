"""Every model on every backbone fits one batch and survives a checkpoint.

Thirty steps at full width, then odd image sizes. The default run tests one narrow pair per model. All other pairs are marked slow
(``pytest -m slow tests/models/test_pairs.py``, minutes).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_pairs import BACKBONES, CLASSES, fixed_batch

from segzoo.api import create_model
from segzoo.checkpoints.writing import save_checkpoint
from segzoo.config.from_checkpoint import load_model
from segzoo.data.dataset_info import make_dataset_info
from segzoo.registry import LOSSES, MODELS, OPTIMS

pytestmark = pytest.mark.integration

PAIRS = [pytest.param(model, "narrow") for model in MODELS.names()] + [
    pytest.param(model, backbone, marks=pytest.mark.slow)
    for model in MODELS.names()
    for backbone in BACKBONES
    if backbone != "narrow"
]
SIZES = [(33, 47), (97, 161), (360, 480)]


def train(model, rate, steps=30):
    """Train on the fixed batch and return the main loss per step."""
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


@pytest.mark.parametrize("model, backbone", PAIRS)
def test_each_pair_fits_one_batch_and_survives_a_checkpoint(model, backbone, tmp_path):
    torch.manual_seed(0)
    settings: dict[str, Any] = {"fc_channels": 64} if backbone == "narrow" and model in ("parsenet", "deeplab_largefov") else {}
    built = create_model(model, backbone=BACKBONES[backbone], num_classes=len(CLASSES), **settings)
    plain_vgg = backbone == "vgg16"
    curve = train(built, 1e-4 if plain_vgg else 1e-3)
    assert all(torch.tensor(curve).isfinite())
    if plain_vgg:  # without batch norm it does not train from scratch, so the loss only has to fall
        assert curve[-1] < curve[0]
    else:
        assert sum(curve[-3:]) / 3 < fixed_batch()[2], curve

    config = {"model": {"name": model, **settings}, "backbone": BACKBONES[backbone]}
    info = make_dataset_info("test", CLASSES, None, (0, 0, 0), (1, 1, 1))
    loaded = load_model(save_checkpoint(tmp_path, 30, built, {}, config, info, {}))
    built.eval()
    for height, width in SIZES:
        x = torch.randn(1, 3, height, width)
        with torch.no_grad():
            actual, expected = loaded(x).main, built(x).main
        assert torch.equal(actual, expected)
        assert expected.isfinite().all()
