"""Weights of other libraries are scored without a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn.functional import interpolate

from segzoo.cli.app import Job, resolve_config
from segzoo.cli.overrides import parse_overrides
from segzoo.config.checks.early import early_errors
from segzoo.config.commands import arguments_for
from segzoo.config.from_weights import load_trained
from segzoo.config.validate import validation_errors
from segzoo.layers.normalize import normalize
from segzoo.models._base import SegModel
from segzoo.registry import ConfigError
from segzoo.types import IMAGENET
from segzoo.workflows.benchmark.workload import build_workload

CLASSES = ("background", "screw", "nut")


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    torch.manual_seed(5)
    network = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                assert tensor is not None
                torch.nn.init.uniform_(tensor, -0.1, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, reference) -> Path:
    """A data set of two images, and the weights of torchvision's network."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("images/train", "images/val", "labels/train", "labels/val"):
        (root / kind).mkdir(parents=True)
    for split in ("train", "val"):
        cv2.imwrite(str(root / f"images/{split}/a.png"), generator.integers(0, 256, (64, 96, 3), np.uint8))
        cv2.imwrite(str(root / f"labels/{split}/a.png"), generator.integers(0, 3, (64, 96), np.uint8))
    state = reference.state_dict()
    torch.save({"model": state, "epoch": 29}, root / "fcn.pth")
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("classifier.0")}, root / "part.pth")
    return root


def overrides(folder: Path, *more: str) -> list[str]:
    data = [f"data.root={folder}", f"data.classes=[{','.join(CLASSES)}]"]
    return [
        "model=fcn_dilated",
        "backbone=resnet50",
        "data=folder",
        *data,
        f"init.ckpt={folder}/fcn.pth",
        "init.match=index",
        *more,
    ]


def job(command: str, *words: str) -> Job:
    parsed = parse_overrides(command, words)
    assert not parsed.errors, parsed.errors
    config, recorded = resolve_config(parsed.jobs[0])
    assert early_errors(command, config) == validation_errors(command, config) == []
    return Job(command, config, recorded, {})


def expected_logits(reference: torch.nn.Module, image: np.ndarray) -> torch.Tensor:
    x = (torch.from_numpy(image).float() - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)
    with torch.no_grad():
        return reference(x.permute(2, 0, 1)[None])["out"]


def read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image[..., ::-1].copy()


@pytest.mark.integration
@torch.no_grad()
def test_torchvisions_weights_give_its_logits(folder, reference):
    loaded = job("eval", *overrides(folder))
    model, info, meta = load_trained(loaded.config, **loaded.arguments["load_trained"])
    assert isinstance(model, SegModel) and info.classes == CLASSES and not model.training and len(meta["sha256"]) == 64
    image = read_image(folder / "images/val/a.png")
    logits = model(normalize(torch.from_numpy(image[None]), info, torch.device("cpu"))).main
    expected = expected_logits(reference, image)
    upsampled = interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
    assert torch.allclose(upsampled, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.integration
def test_eval_and_predict_score_torchvisions_weights(folder, reference, tmp_path):
    from tools.eval import evaluate
    from tools.predict import predict

    labels = expected_logits(reference, read_image(folder / "images/val/a.png")).argmax(1)[0].numpy()
    labeled = cv2.imread(str(folder / "labels/val/a.png"), cv2.IMREAD_UNCHANGED)
    summary = evaluate(job("eval", *overrides(folder, f"out={tmp_path}/eval", "device=cpu", "workers=0")))
    assert summary["aacc"] == pytest.approx(np.mean(labels == labeled), abs=1e-3)
    words = overrides(folder, f"source={folder}/images/val", f"out={tmp_path}/predict", "device=cpu")
    predict(job("predict", *words))
    predicted = np.array(Image.open(tmp_path / "predict/labels/a.png"))  # palette indices
    assert np.mean(predicted == labels) > 0.999


@pytest.mark.integration
def test_bench_takes_them_too(folder):
    config = job("bench", *overrides(folder)).config
    workload = build_workload(config, **arguments_for(build_workload, config))
    assert len(workload.weights) == 64 and workload.info.classes == CLASSES


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["init.ckpt=part.pth"], "part.pth lacks 1 tensors of this model, such as convs.0.conv.weight, so it cannot be scored"),
        (["data.classes=[a,b]"], "has other classes than the data, in score.weight, score.bias. Set data.classes"),
        (["data.std=[1,1,1]"], "was trained on images with mean [123.675, 116.28, 103.53] and std [58.395"),
    ],
)
def test_weights_that_do_not_cover_the_model_are_rejected(folder, more, message):
    loaded = job("eval", *overrides(folder, *(word.replace("part.pth", f"{folder}/part.pth") for word in more)))
    with pytest.raises(ConfigError) as error:
        load_trained(loaded.config, **loaded.arguments["load_trained"])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("eval", [], "there is no model to score. Set ckpt=<run directory>, or for weights of other libraries model=<name>"),
        ("predict", ["source=conf"], "there is no model to score"),
        ("eval", ["init.ckpt=README.md"], "needs its model and its classes. Set model=<name> data=<name>."),
        ("eval", ["init.ckpt=README.md", "ckpt=README.md"], "are both given. Omit one of them"),
        ("predict", ["source=conf", "ckpt=README.md", "data=parts"], "the classes are those of ckpt=README.md. Omit data=."),
    ],
)
def test_an_ambiguous_model_is_rejected_before_torch_is_imported(command, words, message):
    config: Any = resolve_config(parse_overrides(command, words).jobs[0])[0]
    assert any(message in error for error in early_errors(command, config))
