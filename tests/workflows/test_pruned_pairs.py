"""Pruned pairs of model and backbone train, save and export.

Every pair is pruned at full width. All tests are slow: ``pytest -m slow tests/workflows/test_pruned_pairs.py`` takes half an hour.
An ONNX export costs six times the rest, so each pair is exported once, at the budget that leaves another width in every layer.
``tests/pruning/test_pruning.py`` has narrow pairs for the default run.
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
from segzoo.export.formats import ExportModel, to_onnx
from segzoo.layers.channel_widths import conv_out_channels
from segzoo.registry import LOSSES, MODELS, PRUNERS
from segzoo.workflows.benchmark.workload import init_zero_classifiers_

pytestmark = pytest.mark.slow
BUDGETS = {
    "0.75": {"keep_ratio": 0.75},
    "0.5": {"keep_ratio": 0.5},
    "0.25": {"keep_ratio": 0.25},
    "global": {"keep_ratio": 0.5, "allocation": "global"},
}
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 58.0, 57.0)


def count_params(model):
    return sum(parameter.numel() for parameter in model.parameters())


def one_step(model):
    """Run a backward pass, which must reach every trained parameter."""
    x, label, _ = fixed_batch()
    loss = LOSSES.build("cross_entropy", model.aux_weights, model.align_corners, 255, model.loss_resolution)
    loss.total(loss.terms(model.train()(x), label)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.eval().zero_grad(set_to_none=True)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "resnet101"])
@pytest.mark.parametrize("name", MODELS.names())
def test_a_pruned_pair_trains_saves_and_exports(name, backbone, budget, tmp_path):
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason='pip install -e ".[export]"')
    torch.manual_seed(0)
    model: Any = create_model(name, backbone=BACKBONES[backbone], num_classes=len(CLASSES)).eval()
    init_zero_classifiers_(model)
    full, initial_widths = count_params(model), conv_out_channels(model)
    settings = BUDGETS[budget]
    PRUNERS.build("l1", **settings).prune_(model, settings["keep_ratio"], None)
    kept = count_params(model) / full
    assert settings["keep_ratio"] ** 2 * 0.9 < kept < settings["keep_ratio"] * 1.05 or budget == "global" and kept < 0.9
    one_step(model)

    widths = {layer: width for layer, width in conv_out_channels(model).items() if width != initial_widths[layer]}
    if backbone == "vgg16" and name in ("fcn", "parsenet", "deeplab_largefov"):
        assert {"fc.0", "fc.3"} & widths.keys(), "fc6 and fc7 are pruned too"
    config = {"model": {"name": name}, "backbone": BACKBONES[backbone]}
    loaded = load_model(
        save_checkpoint(tmp_path, 1, model, {}, config, make_dataset_info("test", CLASSES, None, (0, 0, 0), (1, 1, 1)), widths)
    )
    x = torch.randn(1, 3, 97, 161)
    with torch.no_grad():
        expected = model(x).main
        assert torch.equal(loaded(x).main, expected) and expected.std() > 0
        loaded.fuse_for_inference_()
        fused = loaded(x).main
    torch.testing.assert_close(fused, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    if budget == "global":
        check_onnx(loaded, tmp_path / "net.onnx")


def check_onnx(model, path):
    """Compare the ONNX file of a fused model at a size that was not traced."""
    import onnxruntime  # type: ignore[import-not-found]

    deployed = ExportModel(model, MEAN, STD, input="uint8", output="logits").eval()
    to_onnx(deployed, path, {})
    image = torch.randint(0, 256, (1, 97, 131, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = deployed(image)[0]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    actual = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
