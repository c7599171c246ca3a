"""Every model on every backbone: published parameter counts, sizes, training, precision, export; and torchvision's own FCN."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from segzoo.models.fcn import FCN, Deconv, _cropped
from segzoo.models.icnet import CascadeFusion
from segzoo.registry import BACKBONES, MODELS, ConfigError
from segzoo.types import DatasetInfo

CAFFE = {"stem": "deep", "stride_at": "1x1"}
TINY = {"resnet50": {"stem": "deep", "width": 0.125}, "resnet101": {"width": 0.125}, "vgg16": {}}
PAIRS = [
    pytest.param(model, backbone, marks=[pytest.mark.slow] if backbone == "vgg16" and model == "pspnet" else [])
    for model in MODELS.names()
    for backbone in BACKBONES.names()
]
pairs = pytest.mark.parametrize("model, backbone", PAIRS)
models = pytest.mark.parametrize("model", MODELS.names())
one_value = pytest.mark.filterwarnings("ignore:The batch norm of PSPNet's 1x1 pyramid map:UserWarning")


def build(model, backbone="resnet50", num_classes=5, trunk=None, **given):
    if (model == "fcn" and backbone == "vgg16") or model in ("parsenet", "deeplab_largefov"):
        given.setdefault("fc_channels", 16)
    trunk = TINY.get(backbone, {}) if trunk is None else trunk
    return MODELS.build(model, BACKBONES.build(backbone, **trunk), num_classes, **given)


def on_meta(model, backbone, num_classes, trunk, **given):
    with torch.device("meta"):
        return MODELS.build(model, BACKBONES.build(backbone, **trunk), num_classes, **given)


def size(module):
    return sum(parameter.numel() for parameter in module.parameters())


def picture(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(model):
    """The model with weights and statistics that show an error: FCN's scores and bottlenecks' last scales start at zero."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
        elif isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.normal_(layer.weight, 0, 0.1)
    return model


def spy(model, **modules):
    """A dict that fills with ``name -> (input, output)`` of the named modules, given as paths, at each call of the model."""
    seen = {}

    def remember(name):
        def hook(module, given, output):
            seen[name] = (given[0], output)

        return hook

    for name, path in modules.items():
        model.get_submodule(path).register_forward_hook(remember(name))
    return seen


def assert_close_to_scale(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def total(logits):
    """A scalar that every head has a part in."""
    return torch.stack([scores.square().mean() for scores in (logits.main, *logits.aux)]).sum()


# parameters, sizes and operations as published


@pytest.mark.parametrize(
    "model, backbone, num_classes, trunk, given, main, aux",
    [
        ("pspnet", "resnet50", 21, {"stem": "deep"}, {}, 46_716_373, 2_365_205),
        ("pspnet", "resnet50", 150, {"stem": "deep"}, {}, 46_782_550, 2_398_358),
        ("pspnet", "resnet101", 19, {"stem": "deep"}, {}, 65_707_475, 2_364_691),
        ("pspnet", "resnet101", 21, {"stem": "deep"}, {"aux_weight": 0}, 65_708_501, 0),
        ("pspnet", "resnet50", 19, {"stem": "v1c"}, {"concat": "ascending"}, 46_610_803, 2_364_691),
        ("icnet", "resnet50", 19, CAFFE | {"width": 0.5}, {}, 6_699_987, 7_334),
        ("icnet", "resnet50", 11, CAFFE | {"width": 0.5}, {}, 6_698_955, 4_246),
        ("icnet", "resnet50", 150, CAFFE | {"width": 0.5}, {}, 6_716_886, 57_900),
        ("icnet", "resnet50", 19, CAFFE, {}, 26_734_483, 14_630),
        ("icnet", "resnet50", 21, CAFFE, {}, 26_734_997, 16_170),
        ("icnet", "resnet50", 19, CAFFE | {"width": 0.25}, {}, 1_683_187, 3_686),
        ("fcn", "vgg16", 21, {}, {"stride": 32}, 136_152_917, 0),
        ("fcn", "vgg16", 21, {}, {"stride": 16}, 134_815_994, 0),
        ("fcn", "vgg16", 21, {}, {"stride": 8}, 134_489_759, 0),
        ("fcn", "vgg16", 150, {}, {}, 141_470_594, 0),
        ("parsenet", "vgg16", 21, {}, {}, 20_529_002, 0),
        ("parsenet", "vgg16", 21, {}, {"fusion": "early"}, 20_528_981, 0),
        ("parsenet", "vgg16", 59, {}, {}, 20_606_902, 0),
        ("deeplab_largefov", "vgg16", 21, {"pool": "deeplab"}, {}, 20_505_429, 0),
        ("deeplab_largefov", "vgg16", 21, {"pool": "deeplab"}, {"msc": "frozen"}, 21_711_550, 0),
        ("deeplab_largefov", "vgg16", 21, {}, {"kernel": 4, "dilation": 4, "fc_channels": 4096}, 65_140_565, 0),
        ("deeplab_largefov", "resnet50", 21, {}, {}, 43_454_549, 0),
        ("deeplab_largefov", "resnet101", 21, {}, {}, 62_446_677, 0),
        ("fcn_dilated", "resnet50", 21, {}, {}, 32_957_013, 2_365_205),
        ("fcn_dilated", "resnet101", 21, {}, {}, 51_949_141, 2_365_205),
        ("fcn_dilated", "resnet50", 19, {"stem": "v1c"}, {"convs": 2, "concat_input": True}, 47_133_043, 2_364_691),
    ],
)
def test_parameter_counts_are_the_published_ones(model, backbone, num_classes, trunk, given, main, aux):
    built = on_meta(model, backbone, num_classes, trunk, **given)
    assert (size(built) - size(built.aux), size(built.aux)) == (main, aux)


@pytest.mark.parametrize(
    "width, parts",
    [
        (0.5, {"conv5_4": 262_656, "cff24": 328_192, "cff12": 156_160, "high": 28_768, "score": 2_451}),
        (1.0, {"conv5_4": 1_049_600, "cff24": 1_311_744, "cff12": 623_616, "high": 112_832, "score": 4_883}),
    ],
)
def test_icnet_parts_have_the_released_counts(width, parts):
    model = on_meta("icnet", "resnet50", 19, CAFFE | {"width": width})
    assert {name: size(getattr(model, name)) for name in parts} == parts


def test_icnet_maps_and_operations_at_the_released_size():
    model = on_meta("icnet", "resnet50", 19, CAFFE | {"width": 0.5})
    trunk = {"c1": "backbone.c1.0", "c3_1": "backbone.c3.0", "c3_2": "backbone.c3.1", "c5": "backbone.c5.2"}
    seen = spy(model, **trunk, low24="cff24.low", high24="cff24.high", low12="cff12.low", high="high", score="score")
    x = torch.randn(1, 3, 1025, 2049, device="meta")
    aux = model.train()(x).aux
    assert [tuple(logits.shape[1:]) for logits in aux] == [(19, 65, 129), (19, 129, 257)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x)
    assert {name: tuple(output.shape[1:]) for name, (_, output) in seen.items()} == {
        "c1": (32, 257, 513),
        "c3_1": (256, 65, 129),
        "c3_2": (256, 33, 65),
        "c5": (1024, 33, 65),
        "low24": (128, 65, 129),
        "high24": (128, 65, 129),
        "low12": (128, 129, 257),
        "high": (64, 129, 257),
        "score": (19, 257, 513),
    }
    convolutions = sum(flops for name, flops in counter.get_flop_counts()["Global"].items() if "convolution" in str(name))
    assert convolutions / 2 == pytest.approx(29.812e9, rel=5e-4)


# every model on every backbone


@pairs
def test_eval_answers_every_size_from_32_up(model, backbone):
    built = build(model, backbone).eval()
    stride = {"fcn": 1, "icnet": 4}.get(model, 8)
    for height, width in ((32, 32), (33, 47), (97, 161)):
        with torch.no_grad():
            logits = built(picture(2, 3, height, width))
        assert logits.aux == () and logits.main.dtype == torch.float32 and logits.main.isfinite().all()
        down = backbone == "vgg16" and model != "icnet" and stride > 1  # its pools round down
        expected = [side // stride if down else math.ceil(side / stride) for side in (height, width)]
        assert list(logits.main.shape) == [2, 5, *expected]


@pairs
@one_value
def test_a_batch_of_one_trains_every_parameter(model, backbone):
    built = randomised(build(model, backbone)).train()
    logits = built(picture(1, 3, 128, 128))
    assert len(logits.aux) == len(built.aux_weights) == len(built.aux)
    total(logits).backward()
    for name, parameter in built.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
        else:
            assert "up" in name and parameter.grad is None


@models
def test_autocast_leaves_logits_in_full_precision(model):
    built = build(model).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = built(picture(2, 3, 64, 64))
    assert {map.dtype for map in (logits.main, *logits.aux)} == {torch.float32}
    total(logits).backward()


@pytest.mark.parametrize(
    "model, backbone",
    [
        pytest.param(m, b, marks=[] if (m, b) == ("icnet", "resnet50") else [pytest.mark.slow])
        for m in MODELS.names()
        for b in BACKBONES.names()
    ],
)
def test_export_with_a_dynamic_size_agrees_elsewhere(model, backbone):
    """From 33 pixels a side: export takes maps of one pixel, as 32 would give, for a case of their own."""
    built = randomised(build(model, backbone)).eval()
    side = {"min": 64 if backbone == "vgg16" else 33, "max": 2048}
    shapes = {"x": {0: Dim("batch", min=1, max=8), 2: Dim("height", **side), 3: Dim("width", **side)}}
    program = torch.export.export(built, (picture(2, 3, 96, 128),), dynamic_shapes=shapes).module()
    for batch, height, width in ((1, 65, 97), (2, side["min"], 120), (3, 119, 66)):
        x = picture(batch, 3, height, width)
        with torch.no_grad():
            torch.testing.assert_close(program(x).main, built(x).main, rtol=1e-4, atol=1e-4)


@models
@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 8, 11, 19, 21])
def test_bfloat16_backward_survives_narrow_scores(model, num_classes):
    """One process each: what this guards against corrupts memory."""
    code = (
        "import torch; from segzoo.registry import BACKBONES, MODELS; b, m = '{b}', '{m}'\n"
        "model = MODELS.build(m, BACKBONES.build(b), {k}).train()\n"
        "with torch.autocast('cpu', dtype=torch.bfloat16):\n    logits = model(torch.randn(2, 3, 96, 128))\n"
        "sum(map.square().mean() for map in (logits.main, *logits.aux)).backward()"
    ).format(b="vgg16" if model == "fcn" else "resnet50", m=model, k=num_classes)
    subprocess.run([sys.executable, "-c", code], check=True)


# what is rejected


@pytest.mark.parametrize("model", ["fcn", "icnet"])
@pytest.mark.parametrize("backbone", BACKBONES.names())
def test_one_pixel_in_training_is_refused(model, backbone):
    built = build(model, backbone).train()
    with pytest.raises(ValueError, match=r"32x32 \(batch 1\).*64") as refusal:
        built(picture(1, 3, 32, 32))
    assert "one pixel" in str(refusal.value)


def test_two_pixels_in_training_are_enough():
    assert build("icnet").train()(picture(1, 3, 32, 33)).main.shape == (1, 5, 8, 9)


@cache
def checked(model):
    return on_meta(model, "resnet50", 5, {})


@models
@pytest.mark.parametrize(
    "x, message",
    [
        (torch.zeros(3, 64, 64), r"\(3, 64, 64\).*wanted \(N, 3, H, W\).*x\[None\]"),
        (torch.zeros(1, 64, 64, 3), r"wanted \(N, 3, H, W\).*permute"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"uint8, wanted normalized floats"),
        (torch.zeros(1, 3, 31, 64), r"\(1, 3, 31, 64\).*at least 32 x 32 pixels: enlarge or pad"),
        (torch.zeros(1, 3, 64, 20), r"at least 32 x 32"),
    ],
)
def test_input_is_checked(model, x, message):
    with pytest.raises(ValueError, match=message):
        checked(model)(x)


def test_learned_deconvolutions_need_a_skip():
    with pytest.raises(ConfigError, match="stride 32"):
        build("fcn", stride=32, deconv="learned")


# predict


INFO = DatasetInfo("toy", tuple("abcde"), ((0, 0, 0),) * 5, mean=(100.0, 110.0, 120.0), std=(50.0, 55.0, 60.0))


@models
def test_predict_labels_at_the_size_of_the_picture(model):
    built = randomised(build(model))
    built.info = INFO
    image = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    x = (torch.from_numpy(image).double() - torch.tensor(INFO.mean)) / torch.tensor(INFO.std)
    with torch.no_grad():
        main = built.eval()(x.permute(2, 0, 1)[None].float()).main
    grown = F.interpolate(main, size=(45, 70), mode="bilinear", align_corners=built.align_corners)
    built.train()
    built.backbone.c1.eval()  # as a user who freezes statistics would
    labels = built.predict(image[:, ::-1][:, ::-1])
    assert labels.dtype == np.uint8 and labels.shape == (45, 70)
    assert (labels == grown.argmax(1)[0].numpy()).mean() > 0.999
    assert built.training and built.backbone.c2.training and not built.backbone.c1.training


def test_predict_refuses_what_is_no_picture_and_a_missing_card():
    model = build("icnet")
    with pytest.raises(ValueError, match="set model.info"):
        model.predict(np.zeros((64, 64, 3), np.uint8))
    model.info = INFO
    for wrong in (np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3), np.float32), torch.zeros(64, 64, 3), "a.png"):
        with pytest.raises(ValueError, match=r"wanted a NumPy array \(H, W, 3\) uint8"):
            model.predict(wrong)
    with pytest.raises(ValueError, match="at least 32"):
        model.predict(np.zeros((20, 64, 3), np.uint8))


# what is particular to each model


@pytest.mark.parametrize(
    "model, given, weights",
    [
        ("pspnet", {}, (0.4,)),
        ("pspnet", {"aux_weight": 0}, ()),
        ("icnet", {}, (0.16, 0.4)),
        ("icnet", {"guidance": (0.4, 1)}, (0.4, 1.0)),
        ("fcn_dilated", {}, (0.5,)),
        ("fcn_dilated", {"aux_weight": 0}, ()),
        ("fcn", {}, ()),
    ],
)
def test_auxiliary_weights_are_those_asked_for(model, given, weights):
    built = on_meta(model, "resnet50", 5, {}, **given)
    assert built.aux_weights == weights and len(built.aux) == len(weights)


@pytest.mark.parametrize("concat, order", [("descending", (6, 3, 2, 1)), ("ascending", (1, 2, 3, 6))])
def test_pspnet_joins_the_trunk_and_its_bins_in_the_order_asked_for(concat, order):
    model = randomised(build("pspnet", concat=concat)).eval()
    seen = spy(model, c5="backbone.c5.2", fuse="fuse")
    with torch.no_grad():
        model(picture(1, 3, 97, 129))
        features = seen["c5"][1]
        reduce = {b: model.reduce[i] for i, b in enumerate((1, 2, 3, 6))}
        pooled = [reduce[b](F.adaptive_avg_pool2d(features, b)) for b in order]
    grown = [F.interpolate(p, size=(13, 17), mode="bilinear", align_corners=True) for p in pooled]
    assert_close_to_scale(seen["fuse"][0], torch.cat([features, *grown], 1))


@pytest.mark.parametrize("given, joined", [({"reduce": False}, 5), ({"bins": (1,)}, 2), ({"bins": ()}, 1), ({"pool": "max"}, 2)])
def test_pspnet_ablations_have_their_widths(given, joined):
    model = build("pspnet", **given).eval()
    assert model.fuse.conv.in_channels == joined * 256
    assert model(picture(1, 3, 40, 50)).main.shape == (1, 5, 5, 7)


def test_pspnet_trains_one_picture_without_statistics_of_one_value():
    model = build("pspnet").train()
    with pytest.warns(UserWarning, match="1x1 pyramid map"):
        model(picture(1, 3, 64, 64))
    assert [int(reduce.bn.num_batches_tracked) for reduce in model.reduce] == [0, 1, 1, 1]


def test_icnet_runs_the_trunk_once_and_guides_by_the_grown_maps():
    model = build("icnet").train()
    calls = []
    model.backbone.c1[0].register_forward_hook(lambda module, given, output: calls.append(tuple(given[0].shape[2:])))
    seen = spy(model, low24="cff24.low", low12="cff12.low", sixteenth="aux.0", eighth="aux.1")
    model(picture(1, 3, 129, 193))
    assert calls == [(65, 97)]
    assert seen["sixteenth"][0] is seen["low24"][0] and seen["sixteenth"][1].shape[2:] == (9, 13)
    assert seen["eighth"][0] is seen["low12"][0] and seen["eighth"][1].shape[2:] == (17, 25)


def test_icnet_adds_its_pyramid_to_the_trunk():
    model = randomised(build("icnet")).eval()
    seen = spy(model, c5="backbone.c5.2", conv5_4="conv5_4")
    with torch.no_grad():
        model(picture(1, 3, 225, 161))
    features = seen["c5"][1]
    assert features.shape[2:] == (8, 6)
    pooled = [F.adaptive_avg_pool2d(features, b) for b in (1, 2, 3, 6)]
    grown = [F.interpolate(p, size=(8, 6), mode="bilinear", align_corners=True) for p in pooled]
    assert_close_to_scale(seen["conv5_4"][0], torch.stack([features, *grown]).sum(0))


@pytest.mark.parametrize("branches, head, step", [(4, 0, 16), (24, 1, 8)])
def test_icnet_with_fewer_branches_answers_from_its_guidance(branches, head, step):
    whole, fewer = randomised(build("icnet")), build("icnet", branches=branches)
    fewer.load_state_dict(whole.state_dict())
    whole.eval().branches = branches  # a trained network may be asked what its branches are worth
    with torch.no_grad():
        assert torch.equal(fewer.eval()(picture(1, 3, 65, 97)).main, whole(picture(1, 3, 65, 97)).main)
    short = fewer.train()(picture(2, 3, 65, 97))
    assert len(short.aux) == len(fewer.aux_weights) == head and fewer.aux_weights == whole.aux_weights[:head]
    assert short.main.shape[-2:] == (-(-65 // step), -(-97 // step))
    total(short).backward()
    assert all((p.grad is not None) == p.requires_grad for p in fewer.parameters())


def test_icnet_fusion_adds_a_dilated_and_a_plain_convolution_before_its_relu():
    fusion = CascadeFusion(4, 6, 8)
    low, high = picture(2, 4, 9, 11), picture(2, 6, 9, 11, seed=1)
    first = F.batch_norm(F.conv2d(low, fusion.low.conv.weight, padding=2, dilation=2), None, None, training=True)
    second = F.batch_norm(F.conv2d(high, fusion.high.conv.weight), None, None, training=True)
    torch.testing.assert_close(fusion(low, high), F.relu(first + second))


@pytest.mark.parametrize(
    "model, given, c4, c5",
    [
        ("pspnet", {}, [2] * 6, [4] * 3),
        ("pspnet", {"first_block_dilation": "half"}, [1] + [2] * 5, [2, 4, 4]),
        ("pspnet", {"output_stride": 16}, [1] * 6, [2] * 3),
        ("icnet", {}, [2] * 6, [4] * 3),
        ("icnet", {"first_block_dilation": "half"}, [1] + [2] * 5, [2, 4, 4]),
        ("fcn_dilated", {}, [1] + [2] * 5, [2, 4, 4]),
        ("fcn_dilated", {"first_block_dilation": "full"}, [2] * 6, [4] * 3),
        ("fcn", {}, [1] * 6, [1] * 3),
    ],
)
def test_dilations_of_the_trunk_are_those_asked_for(model, given, c4, c5):
    backbone = on_meta(model, "resnet50", 5, {}, **given).backbone
    for stage, dilations in (("c4", c4), ("c5", c5)):
        layers = backbone.get_submodule(stage).modules()
        assert [m.dilation[0] for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)] == dilations


def test_fcn_crops_the_middle():
    grown = picture(1, 2, 8, 9)
    assert torch.equal(_cropped(grown, torch.empty(1, 5, 4, 6)), grown[..., 2:6, 1:7])


@pytest.mark.parametrize("stride", [2, 8, 16, 32])
def test_deconvolution_starts_as_bilinear_growing(stride):
    x = picture(1, 3, 5, 6)
    grown, rim = Deconv(3, stride, learned=False)(x), stride // 2
    expected = F.interpolate(x, scale_factor=float(stride), mode="bilinear", align_corners=False)
    inner = (..., slice(rim, -rim), slice(rim, -rim))  # at the rim it fades to zero instead
    torch.testing.assert_close(grown[..., rim:-rim, rim:-rim][inner], expected[inner])


def test_fcn_starts_at_zero_and_adds_the_scores_of_three_depths():
    model = build("fcn").eval()
    x = picture(1, 3, 64, 96)
    assert isinstance(model, FCN) and not model(x).main.any()
    for bias in (model.get_parameter(f"{name}.bias") for name in ("score", "skips.c4", "skips.c3")):
        nn.init.ones_(bias)
        assert model(x).main[..., 32, 48].mean().item() == pytest.approx(1, abs=1e-5)
        nn.init.zeros_(bias)


@pytest.mark.parametrize("deconv, learned", [("frozen", set()), ("learned", {"ups.c4.weight", "ups.c3.weight"})])
def test_fcn_learns_the_deconvolutions_before_a_sum_only_when_asked(deconv, learned):
    model = build("fcn", deconv=deconv)
    assert {name for name, p in model.named_parameters() if "up" in name and p.requires_grad} == learned


@pytest.mark.parametrize("name", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)])
def test_dilated_fcn_equals_torchvision(name):
    from torchvision.models import segmentation

    theirs = getattr(segmentation, f"fcn_{name}")(weights=None, weights_backbone=None, aux_loss=True, num_classes=21)
    theirs = randomised(theirs).eval()
    ours = build("fcn_dilated", name, 21, trunk={}).eval()
    state = theirs.state_dict()
    parts = [[v for k, v in state.items() if k.startswith(part)] for part in ("backbone.", "aux_classifier.", "classifier.")]
    values, names = [value for part in parts for value in part], list(ours.state_dict())
    assert [v.shape for v in values] == [v.shape for v in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(names, values, strict=True)))
    x = picture(1, 3, 65, 97)
    with torch.no_grad():
        expected, logits = theirs(x), ours(x)
        aux = ours.aux[0](ours.backbone.forward_stages(x)["c4"])
    for found, key in ((logits.main, "out"), (aux, "aux")):
        grown = F.interpolate(found, size=(65, 97), mode="bilinear", align_corners=ours.align_corners)
        torch.testing.assert_close(grown, expected[key], rtol=1e-4, atol=1e-4)
