"""Published layer tables, by stage: parameters, feature map sizes and operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segzoo.api import create_model
from segzoo.registry import INITS

DEEP = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}


def on_meta(name, backbone, classes):
    with torch.device("meta"):
        return create_model(name, backbone=backbone, num_classes=classes).eval()


def counts(model, stages):
    return {
        stage: sum(p.numel() for path in paths.split() for p in model.get_submodule(path).parameters())
        for stage, paths in stages.items()
    }


def sizes(model, height, width, *paths):
    """Output (C, H, W) of the named modules."""
    shapes = {}
    for path in paths:
        model.get_submodule(path).register_forward_hook(lambda _m, _x, y, path=path: shapes.__setitem__(path, tuple(y.shape[1:])))
    with torch.no_grad():
        shapes["main"] = tuple(model(torch.empty(1, 3, height, width, device="meta")).main.shape[1:])
    return shapes


BACKBONE = {"conv1": "backbone.c1", "conv2": "backbone.c2", "conv3": "backbone.c3", "conv4": "backbone.c4", "conv5": "backbone.c5"}


@pytest.mark.parametrize("backbone, conv4, total", [("resnet50", 7_098_368, 46_782_550), ("resnet101", 26_090_496, 65_774_678)])
def test_pspnet_stages_have_the_counts_of_its_prototxt(backbone, conv4, total):
    model = on_meta("pspnet", DEEP | {"name": backbone}, 150)
    stages = BACKBONE | {"pyramid": "reduce", "conv5_4": "fuse", "conv6": "score"}
    expected = (112_832, 236_288, 1_219_584, conv4, 14_964_736, 4_198_400, 18_875_392, 76_950)
    assert tuple(counts(model, stages).values()) == expected
    assert sum(expected) == total


@pytest.mark.parametrize(
    "width, expected",
    [
        (0.5, (28_768, 59_776, 95_488, 211_200, 1_779_712, 3_746_816, 262_656, 328_192, 156_160, 28_768, 2_451)),
        (1.0, (112_832, 236_288, 379_392, 840_192, 7_098_368, 14_964_736, 1_049_600, 1_311_744, 623_616, 112_832, 4_883)),
    ],
)
def test_icnet_stages_have_the_counts_of_its_prototxt(width, expected):
    model = on_meta("icnet", DEEP | {"width": width}, 19)
    conv3 = {"conv3_1": "backbone.c3.0", "conv3_2..4": "backbone.c3.1 backbone.c3.2 backbone.c3.3"}
    backbone = {"conv1": "backbone.c1", "conv2": "backbone.c2"} | conv3 | {"conv4": "backbone.c4", "conv5": "backbone.c5"}
    heads = {"conv5_4_k1": "conv5_4", "cff24": "cff24", "cff12": "cff12", "high": "high", "conv6_cls": "score"}
    assert tuple(counts(model, backbone | heads).values()) == expected


@pytest.mark.parametrize("side, c1, c2, c5", [(473, 237, 119, 60), (713, 357, 179, 90), (321, 161, 81, 41)])
def test_pspnet_feature_maps_have_their_published_sizes(side, c1, c2, c5):
    model = on_meta("pspnet", DEEP, 21)
    assert sizes(model, side, side, "backbone.c1.8", "backbone.c2.2", "backbone.c5.2", "fuse") == {
        "backbone.c1.8": (128, c1, c1),
        "backbone.c2.2": (256, c2, c2),
        "backbone.c5.2": (2048, c5, c5),
        "fuse": (512, c5, c5),
        "main": (21, c5, c5),
    }


@pytest.mark.parametrize(
    "backbone, stride_at, side, classes, gmacs", [("resnet50", "1x1", 473, 150, 161.53), ("resnet101", "3x3", 713, 19, 517.19)]
)
def test_pspnet_has_its_published_operations(backbone, stride_at, side, classes, gmacs):
    model = on_meta("pspnet", {"name": backbone, "stem": "deep", "stride_at": stride_at}, classes)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, side, side, device="meta"))
    convolutions = sum(n for name, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(name))
    assert convolutions / 2e9 == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize(
    "height, width, gmacs", [(1025, 2049, 29.812), (737, 961, 10.215), (385, 481, 2.776), (353, 481, 2.556), (513, 513, 3.894)]
)
def test_icnet_half_has_its_published_operations_and_output_stride(height, width, gmacs):
    model = on_meta("icnet", DEEP | {"width": 0.5}, 19)
    assert sizes(model, height, width)["main"] == (19, (height - 1) // 4 + 1, (width - 1) // 4 + 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, height, width, device="meta"))
    convolutions = sum(n for name, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(name))
    assert convolutions / 2e9 == pytest.approx(gmacs, rel=1e-3)


@torch.no_grad()
def test_each_fcn_stage_starts_from_the_one_before(tmp_path):
    """32s, then 16s, then 8s by init.ckpt.

    A new skip starts at zero, so at first each stage predicts what the one before did.
    """
    torch.manual_seed(0)
    backbone = {"name": "resnet50", "width": 0.125}
    x = torch.randn(1, 3, 192, 256)
    before: Any = create_model("fcn", backbone=backbone, num_classes=3, stride=32)
    torch.nn.init.normal_(before.score.weight, std=0.1)  # as if trained
    for stride, skip in ((16, "c4"), (8, "c3")):
        torch.save(before.state_dict(), tmp_path / "stage.pth")
        after: Any = create_model("fcn", backbone=backbone, num_classes=3, stride=stride)
        report = INITS.build("checkpoint", after, None, ckpt=str(tmp_path / "stage.pth"), match="index")
        assert {name for name in report.reinitialized if "skips" in name} == {f"skips.{skip}.weight", f"skips.{skip}.bias"}
        assert torch.equal(after.score.weight, before.score.weight)
        coarse, fine = before.eval()(x).main, after.eval()(x).main
        assert (
            torch.corrcoef(torch.stack([coarse.flatten(), fine.flatten()]))[0, 1] > 0.98
        )  # upsampling twice is nearly upsampling once
        torch.nn.init.normal_(after.skips[skip].weight, std=0.01)
        before = after
