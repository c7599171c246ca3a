"""Every model on every backbone, and the checks of their inputs."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from small_models import assert_close_to_scale, build, on_meta, random_images, randomized, scalar_loss
from torch.export import Dim
from torch.nn import functional as F

from segzoo.export.formats import trace
from segzoo.layers.resize import corner_size
from segzoo.registry import BACKBONES, MODELS, ConfigError
from segzoo.types import DatasetInfo

PAIRS = [
    pytest.param(model, backbone, marks=[pytest.mark.slow] if backbone == "vgg16" and model == "pspnet" else [])
    for model in MODELS.names()
    for backbone in BACKBONES.names()
]
pairs = pytest.mark.parametrize("model, backbone", PAIRS)
models = pytest.mark.parametrize("model", MODELS.names())
one_value = pytest.mark.filterwarnings("ignore:The batch norm of PSPNet's 1x1 pyramid level:UserWarning")


# every model on every backbone


@pairs
def test_eval_accepts_every_size_from_32_up(model, backbone):
    built = build(model, backbone).eval()
    stride = {"fcn": 1, "icnet": 4}.get(model, 8)
    for height, width in ((32, 32), (33, 47), (97, 161)):
        with torch.no_grad():
            logits = built(random_images(2, 3, height, width))
        assert logits.aux == () and logits.main.dtype == torch.float32 and logits.main.isfinite().all()
        rounds_down = backbone == "vgg16" and model != "icnet" and stride > 1  # the pools of VGG-16
        seen = corner_size((height, width), built.corner_multiple)
        expected = [side // stride if rounds_down else math.ceil(side / stride) for side in seen]
        assert list(logits.main.shape) == [2, 5, *expected]


@pytest.mark.parametrize(("model", "multiple"), [("icnet", 32), ("pspnet", 8), ("deeplab_largefov", 8)])
def test_images_are_enlarged_until_corners_align(model, multiple):
    built, x = randomized(build(model)).eval(), random_images(1, 3, 50, 90)
    enlarged = F.interpolate(x, size=(65, 97) if multiple == 32 else (57, 97), mode="bilinear", align_corners=True)
    with torch.no_grad():
        assert torch.equal(built(x).main, built(enlarged).main)
        assert built.prepare_input(enlarged) is enlarged
        stages = built.backbone.forward_stages(enlarged)
    for stage in built.backbone.stages:  # the last pixel of each feature map lies on the last pixel of the image
        stride = min(stage.stride, built.backbone.output_stride)
        assert [(side - 1) * stride + 1 for side in stages[stage.name].shape[2:]] == list(enlarged.shape[2:])
    assert build(model, align_corners=False).prepare_input(x) is x


@pairs
@one_value
def test_a_batch_of_one_trains_every_parameter(model, backbone):
    built = randomized(build(model, backbone)).train()
    logits = built(random_images(1, 3, 128, 128))
    assert len(logits.aux) == len(built.aux_weights) == len(built.aux)
    scalar_loss(logits).backward()
    for name, parameter in built.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
        else:
            assert "up" in name and parameter.grad is None


@models
def test_autocast_leaves_logits_in_full_precision(model):
    built = build(model).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = built(random_images(2, 3, 64, 64))
    assert {scores.dtype for scores in (logits.main, *logits.aux)} == {torch.float32}
    scalar_loss(logits).backward()


@pytest.mark.slow  # by default, ICNet's ONNX file is compared at sizes that were never traced (tests/export)
@pytest.mark.parametrize("backbone", BACKBONES.names())
@models
def test_export_with_a_dynamic_size_agrees_at_other_sizes(model, backbone):
    """Sizes start at 33 pixels.

    With 32 a feature map would have one pixel, which export specializes on.
    """
    built = randomized(build(model, backbone)).eval()
    side = {"min": 64 if backbone == "vgg16" else 33, "max": 2048}
    shapes = {"x": {0: Dim("batch", min=1, max=8), 2: Dim("height", **side), 3: Dim("width", **side)}}
    program = trace(built, random_images(2, 3, 96, 128), shapes).module()
    for batch, height, width in ((1, 65, 97), (2, side["min"], 120), (3, 119, 66)):
        x = random_images(batch, 3, height, width)
        with torch.no_grad():
            assert_close_to_scale(program(x).main, built(x).main)


@models
@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 8, 11, 19, 21])
def test_bfloat16_backward_works_with_few_classes(model, num_classes):
    """Each case has its own process, because the bug would corrupt memory."""
    code = (
        "import torch; from segzoo.registry import BACKBONES, MODELS; b, m = '{b}', '{m}'\n"
        "model = MODELS.build(m, BACKBONES.build(b), {k}).train()\n"
        "with torch.autocast('cpu', dtype=torch.bfloat16):\n    logits = model(torch.randn(2, 3, 96, 128))\n"
        "sum(scores.square().mean() for scores in (logits.main, *logits.aux)).backward()"
    ).format(b="vgg16" if model == "fcn" else "resnet50", m=model, k=num_classes)
    subprocess.run([sys.executable, "-c", code], check=True)


# what is rejected


@pytest.mark.parametrize("model", ["fcn", "icnet"])
@pytest.mark.parametrize("backbone", BACKBONES.names())
def test_one_pixel_in_training_is_rejected(model, backbone):
    built = build(model, backbone, **{"align_corners": False} if model == "icnet" else {}).train()
    with pytest.raises(ValueError, match=r"32x32 \(batch 1\).*64") as error:
        built(random_images(1, 3, 32, 32))
    assert "one pixel" in str(error.value)


def test_two_pixels_in_training_are_enough():
    assert build("icnet", align_corners=False).train()(random_images(1, 3, 32, 33)).main.shape == (1, 5, 8, 9)
    assert build("icnet").train()(random_images(1, 3, 32, 32)).main.shape == (1, 5, 9, 9)  # of 33x33


@cache
def model_on_meta(model):
    return on_meta(model, "resnet50", 5, {})


@models
@pytest.mark.parametrize(
    "x, message",
    [
        (torch.zeros(3, 64, 64), r"\(3, 64, 64\).*expected \(N, 3, H, W\).*x\[None\]"),
        (torch.zeros(1, 64, 64, 3), r"expected \(N, 3, H, W\).*permute"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"uint8, expected normalized floats"),
        (torch.zeros(1, 3, 31, 64), r"\(1, 3, 31, 64\).*at least 32 x 32 pixels: enlarge or pad"),
        (torch.zeros(1, 3, 64, 20), r"at least 32 x 32"),
    ],
)
def test_invalid_input_is_rejected(model, x, message):
    with pytest.raises(ValueError, match=message):
        model_on_meta(model)(x)


def test_learned_transposed_convolutions_need_a_skip():
    with pytest.raises(ConfigError, match="stride 32"):
        build("fcn", stride=32, deconv="learned")


# predict


INFO = DatasetInfo("toy", tuple("abcde"), ((0, 0, 0),) * 5, mean=(100.0, 110.0, 120.0), std=(50.0, 55.0, 60.0))


@models
def test_predict_returns_labels_at_image_size(model):
    built = randomized(build(model))
    built.info = INFO
    image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    x = (torch.from_numpy(image).double() - torch.tensor(INFO.mean)) / torch.tensor(INFO.std)
    with torch.no_grad():
        main = built.eval()(x.permute(2, 0, 1)[None].float()).main
    upsampled = F.interpolate(main, size=(45, 70), mode="bilinear", align_corners=built.align_corners)
    built.train()
    built.backbone.c1.eval()  # like a user who freezes the statistics
    labels = built.predict(image[:, ::-1][:, ::-1]).labels
    assert labels.dtype == np.uint8 and labels.shape == (45, 70)
    assert (labels == upsampled.argmax(1)[0].numpy()).mean() > 0.999
    assert built.training and built.backbone.c2.training and not built.backbone.c1.training


def test_predict_rejects_small_images_and_missing_dataset_info():
    model = build("icnet")
    with pytest.raises(ValueError, match="set model.info"):
        model.predict(np.zeros((64, 64, 3), np.uint8))
    model.info = INFO
    with pytest.raises(ValueError, match="at least 32"):
        model.predict(np.zeros((20, 64, 3), np.uint8))
