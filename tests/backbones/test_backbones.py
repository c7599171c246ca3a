"""Backbones: published sizes, features equal to torchvision's, exact dilation."""

from __future__ import annotations

import copy
import functools
import itertools

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segzoo.backbones.resnet import ResNet
from segzoo.registry import BACKBONES, ConfigError
from segzoo.types import Stage

OUTPUTS = ["c1", "c2", "c3_1", "c3", "c4", "c5"]
INPUTS = ["c1", "c2", "c3", "after_c3_1", "c4", "c5"]
SMALL = {  # sizes that run in milliseconds
    "resnet50": {"width": 0.125},
    "resnet101": {"width": 0.125, "stem": "deep", "stride_at": "1x1"},
    "vgg16": {"batch_norm": True},
}


@functools.lru_cache(maxsize=8)
def original(name, **settings):
    torch.manual_seed(0)
    net = BACKBONES.build(name, **settings)
    for key, tensor in net.state_dict().items():
        if key.endswith("running_var") or (tensor.dim() == 1 and key.endswith("weight")):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif key.endswith(("running_mean", "bias")):
            nn.init.normal_(tensor, std=0.2)
    return net.eval()


def build(name, **settings):
    """A backbone in eval with random weights, equal at every call."""
    return copy.deepcopy(original(name, **settings))


def meta(name, **settings):
    with torch.device("meta"):
        return BACKBONES.build(name, **settings)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def distance(a, b):
    """Largest difference over largest value."""
    assert a.shape == b.shape
    return ((a - b).abs().max() / b.abs().max()).item()


def image(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------------------------------- sizes and counts


@pytest.mark.parametrize(("name", "c4"), [("resnet50", 7_098_368), ("resnet101", 26_090_496)])
@pytest.mark.parametrize(
    ("stem", "c1", "c2"), [("deep", 112_832, 236_288), ("basic", 9_536, 215_808), ("v1c", 28_768, 215_808)]
)  # Caffe PSPNet; torchvision; mmseg, whose backbones have 23,527,264 and 42,519,392 parameters
def test_resnet_parameters_by_stage(name, c4, stem, c1, c2):
    net = meta(name, stem=stem)
    assert [count(stage) for stage in (net.c1, net.c2, net.c3, net.c4, net.c5)] == [c1, c2, 1_219_584, c4, 14_964_736]
    published = {("basic", "resnet50"): 23_508_032, ("basic", "resnet101"): 42_500_160}
    published |= {("v1c", "resnet50"): 23_527_264, ("v1c", "resnet101"): 42_519_392}
    assert count(net) == published.get((stem, name), count(net))


def test_half_width_is_the_backbone_of_icnet():
    net = meta("resnet50", stem="deep", stride_at="1x1", width=0.5)
    assert [layer.out_channels for layer in net.c1 if isinstance(layer, nn.Conv2d)] == [32, 32, 64]
    mids = [stage[0].conv2.out_channels for stage in (net.c2[1:], net.c3, net.c4, net.c5)]
    assert (mids, list(net.channels.values())) == ([32, 64, 128, 256], [64, 128, 256, 512, 1024, 256])
    counts = [count(layers) for layers in (net.c1, net.c2, net.c3[:1], net.c3[1:], net.c4, net.c5)]
    assert counts == [28_768, 59_776, 95_488, 211_200, 1_779_712, 3_746_816]


def test_vgg_parameters_and_stages():
    net = meta("vgg16")
    assert count(net) == 14_714_688
    assert count(meta("vgg16", batch_norm=True)) == 14_714_688 + 2 * (2 * 64 + 2 * 128 + 3 * 256 + 6 * 512)
    assert net.stages == (Stage("c1", 64, 2), Stage("c2", 128, 4), Stage("c3", 256, 8), Stage("c4", 512, 16), Stage("c5", 512, 32))


@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_feature_maps_have_the_declared_strides_and_channels(name, output_stride):
    net = build(name, **SMALL[name]).set_output_stride_(output_stride, "full")
    features = net(image(64, 96))
    assert list(features) == OUTPUTS
    assert {name: feature.shape[1] for name, feature in features.items()} == net.channels
    for stage in net.stages:
        stride = min(stage.stride, output_stride)
        assert features[stage.name].shape[-2:] == (64 // stride, 96 // stride)


# ---------------------------------------------------------------------------------------------- compared with torchvision


def torchvision_features(net, x):
    """Feature maps of a torchvision network by segzoo's names."""
    if hasattr(net, "layer1"):
        stem = net.relu(net.bn1(net.conv1(x)))
        features = {"c1": stem, "c2": net.layer1(net.maxpool(stem))}
        features["c3_1"] = net.layer2[0](features["c2"])
        for name, layers in (("c3", net.layer2[1:]), ("c4", net.layer3), ("c5", net.layer4)):
            features[name] = layers(list(features.values())[-1])
        return features
    features = {}
    for layer in net.features:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            features[f"c{len(features) + 1}"] = x
    return features | {"c3_1": features["c3"]}


def torchvision_net(net, entry, **options):
    """Torchvision's network with the weights of ``net``.

    Tensors are matched by position, which needs no table of names.
    """
    with torch.device("meta"):
        reference = getattr(torchvision.models, entry)(weights=None, **options)
    keys = [key for key in reference.state_dict() if not key.startswith(("fc.", "classifier."))]
    tensors = net.state_dict().values()
    assert [tensor.shape for tensor in tensors] == [reference.state_dict()[key].shape for key in keys]
    reference.load_state_dict(dict(zip(keys, tensors, strict=True)), strict=False, assign=True)
    return reference.eval()


TORCHVISION = [("resnet50", {}, "resnet50"), ("resnet101", {}, "resnet101"), ("vgg16", {}, "vgg16")]
TORCHVISION += [("vgg16", {"batch_norm": True}, "vgg16_bn")]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "options", "entry"), TORCHVISION, ids=lambda value: value if isinstance(value, str) else "")
@torch.no_grad()
def test_every_feature_map_equals_torchvision(name, options, entry):
    net = build(name, **options)
    reference = torchvision_net(net, entry)
    for size in ((34, 41),) if name == "resnet101" else ((64, 64), (50, 71)):
        actual, expected = net(image(*size)), torchvision_features(reference, image(*size))
        for name in OUTPUTS:
            assert distance(actual[name], expected[name]) < 1e-5, (name, size)


@pytest.mark.parametrize("output_stride", [8, 16])
@torch.no_grad()
def test_half_dilation_equals_torchvision(output_stride):
    net = build("resnet50").set_output_stride_(output_stride, "half")
    reference = torchvision_net(net, "resnet50", replace_stride_with_dilation=[False, output_stride == 8, True])
    actual, expected = net(image(50, 71)), torchvision_features(reference, image(50, 71))
    for name in OUTPUTS:
        assert distance(actual[name], expected[name]) < 1e-5, name


# ---------------------------------------------------------------------------------------------- dilation is exact, or not


SIZES = [(97, 33), (64, 50)]  # zero padding lines up at every size, not only at 32k+1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    ("stride_at", "first_block_dilation", "exact"),
    [("1x1", "full", True), ("3x3", "half", True), ("1x1", "half", False), ("3x3", "full", False)],
)
@torch.no_grad()
def test_dilated_resnet_subsampled_equals_the_undilated_one(stride_at, first_block_dilation, exact, output_stride, size):
    """The position of the stride decides which convolutions must be dilated.

    A 3x3 convolution after a removed stride must be dilated, one before it must not.
    """
    plain = build("resnet50", width=0.125, stride_at=stride_at).double()
    dilated = build("resnet50", width=0.125, stride_at=stride_at).double().set_output_stride_(output_stride, first_block_dilation)
    sparse, dense = plain(image(*size).double()), dilated(image(*size).double())
    assert torch.equal(sparse["c3"], dense["c3"])
    for name in ("c4", "c5"):
        step = max(1, {"c4": 16, "c5": 32}[name] // output_stride)
        difference = distance(dense[name][..., ::step, ::step], sparse[name])
        assert difference < 1e-10 if exact or step == 1 else difference > 1e-2, (name, difference)


def conv5(net, x):
    """The feature map after conv5_3 and its ReLU, before pool5."""
    x = net.forward_stages(x, last="c4")["c4"]
    for layer in list(net.c5)[:-1]:
        x = layer(x)
    return x


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("pool", "exact"), [("deeplab", True), ("vgg", False)])
@torch.no_grad()
def test_dilated_vgg_subsampled_equals_the_undilated_one_up_to_conv5(pool, exact, size):
    x, plain = image(*size), build("vgg16", pool=pool)
    dilated = copy.deepcopy(plain).set_output_stride_(8)
    sparse, dense = conv5(plain, x), conv5(dilated, x)
    if not exact:  # a 2x2 max-pool of stride 2 is not a subsampled 3x3 max-pool of stride 1
        height, width = sparse.shape[-2:]
        assert distance(dense[..., ::2, ::2][..., :height, :width], sparse) > 1e-2
        return
    assert distance(dense[..., ::2, ::2], sparse) < 1e-5
    assert distance(dilated(x)["c5"][..., ::4, ::4], plain(x)["c5"]) > 1e-2  # DeepLab's pool5 is not dilated
    at16 = copy.deepcopy(plain).set_output_stride_(16)(x)
    assert distance(at16["c5"][..., ::2, ::2], plain(x)["c5"]) < 1e-5


def test_dilation_by_layer():
    """The dilation of every 3x3 convolution.

    PSPNet has 2 in c4 and 4 in c5. With ``half`` the first block has that of the stage before. LargeFOV has 2 in conv5.
    """

    def dilations(net):
        layers = [layer for stage in (net.c4, net.c5) for layer in stage.modules() if isinstance(layer, nn.Conv2d)]
        return [layer.dilation[0] for layer in layers if layer.kernel_size == (3, 3)]

    assert dilations(meta("resnet50").set_output_stride_(8, "full")) == [2] * 6 + [4] * 3
    assert dilations(meta("resnet50").set_output_stride_(8, "half")) == [1] + [2] * 5 + [2] + [4] * 2
    assert dilations(meta("resnet101").set_output_stride_(16, "full")) == [1] * 23 + [2] * 3
    assert dilations(meta("vgg16").set_output_stride_(8)) == [1] * 3 + [2] * 3
    assert dilations(meta("vgg16").set_output_stride_(16)) == [1] * 6
    pools = [stage[-1] for stage in meta("vgg16", pool="deeplab").set_output_stride_(8)._modules.values()]
    assert [(pool.kernel_size, pool.stride, pool.padding) for pool in pools] == [(3, 2, 1)] * 3 + [(3, 1, 1)] * 2


@pytest.mark.parametrize("name", sorted(SMALL))
def test_invalid_dilation_is_rejected(name):
    net = build(name, **SMALL[name])
    with pytest.raises(ValueError, match="output_stride=4.*8, 16 or 32"):
        net.set_output_stride_(4, "full")
    with pytest.raises(ValueError, match="first_block_dilation='whole'.*'full' or 'half'"):
        net.set_output_stride_(8, "whole")
    state = net.state_dict()
    assert net.set_output_stride_(32, "full") is net
    assert net.set_output_stride_(16, "half").state_dict().keys() == state.keys()
    with pytest.raises(ValueError, match=f"{name} already has output stride 16"):
        net.set_output_stride_(8, "half")


# ---------------------------------------------------------------------------------------------- partial runs


@pytest.mark.parametrize("name", sorted(SMALL))
@torch.no_grad()
def test_two_partial_runs_equal_one_run(name):
    net, x = build(name, **SMALL[name]).set_output_stride_(8), image(65, 50)
    whole = net.forward_stages(x)
    assert list(whole) == OUTPUTS
    for cut, start in zip(OUTPUTS, INPUTS[1:], strict=False):
        head = net.forward_stages(x, last=cut)
        tail = net.forward_stages(head[cut], first=start)
        assert list(head) == OUTPUTS[: OUTPUTS.index(cut) + 1]
        assert list(tail) == OUTPUTS[OUTPUTS.index(cut) + 1 :]
        assert all(torch.equal(feature, whole[name]) for name, feature in (head | tail).items())


@torch.no_grad()
def test_inner_point():
    net, x = build("resnet50", width=0.125), image(64, 64)
    assert torch.equal(net.forward_stages(x, last="c3_1")["c3_1"], net.c3[0](net.forward_stages(x, last="c2")["c2"]))
    assert net.forward_stages(x)["c3_1"].min() == 0  # after its ReLU
    vgg = build("vgg16")
    assert torch.equal(vgg.forward_stages(x)["c3_1"], vgg.forward_stages(x)["c3"])


@pytest.mark.parametrize(("first", "last"), list(itertools.product(INPUTS, OUTPUTS)))
def test_every_partial_run_works_or_is_rejected(first, last):
    net, x = build("resnet50", width=0.125), image(64, 64)
    begin, end = INPUTS.index(first), OUTPUTS.index(last)
    start = x if begin == 0 else net.forward_stages(x)[OUTPUTS[begin - 1]]
    if begin > end:
        with pytest.raises(ValueError, match="ends before it begins"):
            net.forward_stages(start, first, last)
    else:
        assert list(net.forward_stages(start, first, last)) == OUTPUTS[begin : end + 1]


@pytest.mark.parametrize(("argument", "name"), [("first", "c6"), ("first", "c3_1"), ("last", "after_c3_1"), ("last", "layer4")])
def test_unknown_stage_lists_the_valid_ones(argument, name):
    valid = INPUTS if argument == "first" else OUTPUTS
    with pytest.raises(ValueError, match=f"{argument}='{name}'.*Valid for {argument}: {', '.join(valid)}"):
        build("resnet50", width=0.125).forward_stages(image(64, 64), **{argument: name})


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
@given(sides=st.tuples(st.integers(32, 70), st.integers(32, 70)), output_stride=st.sampled_from([8, 16, 32]))
@settings(max_examples=8, deadline=None)
def test_one_pixel_is_rejected_in_training_exactly_when_there_is_one(name, sides, output_stride):
    net = build(name, **SMALL[name]).set_output_stride_(output_stride)
    with torch.no_grad():
        sizes = {name: feature.shape[-2:] for name, feature in net(image(*sides)).items()}
        one_pixel = [name for name in OUTPUTS if sizes[name].numel() == 1]
        net.train()
        if one_pixel:
            with pytest.raises(ValueError, match=f"map {one_pixel[0]} would have one pixel.*{sides[0]}x{sides[1]}.*batch 1"):
                net(image(*sides))
        else:
            net(image(*sides))


def test_one_pixel_message_names_the_minimum_size():
    net = build("resnet50", width=0.125).train()
    with pytest.raises(ValueError, match=r"resnet50.*c5.*'c1'.*32x32 \(batch 2\).*64 or more pixels"):
        net(image(32, 32, batch=2))
    net(image(32, 64, batch=1))
    inner = net.forward_stages(image(64, 64), last="c3_1")["c3_1"]
    with pytest.raises(ValueError, match=r"'after_c3_1'.*4x4 \(batch 1\).*8 or more pixels"):
        net.forward_stages(inner[..., :4, :4], first="after_c3_1")
    net.forward_stages(inner, first="after_c3_1")
    with pytest.raises(ValueError, match="map c3 would have one pixel"):
        net.forward_stages(inner[..., :1, :1], first="after_c3_1")
    assert net.eval()(image(32, 32))["c5"].shape[-2:] == (1, 1)
    with pytest.raises(ValueError, match="one pixel") as error:
        build("vgg16").train()(image(32, 32))
    assert "atch norm" not in str(error.value)  # of which this network has none


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_parameter_gets_a_gradient(name):
    net = build(name, **SMALL[name]).set_output_stride_(16).train()
    net(image(65, 65, batch=2))["c5"].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for p in net.parameters() if p.dim() == 4)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "options"), [("resnet50", {}), ("resnet50", {"stem": "deep"}), ("vgg16", {"batch_norm": True})])
def test_initialization(name, options):
    torch.manual_seed(0)
    for path, layer in BACKBONES.build(name, **options).named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == (0 if path.endswith("bn3") else 1)).all()  # a bottleneck starts as the identity
            assert not layer.bias.any()


# ---------------------------------------------------------------------------------------------- settings and export


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet50", {"stem": "depp"}, "Did you mean 'deep'"),
        ("resnet50", {"stride_at": "7x7"}, "one of 3x3, 1x1"),
        ("resnet101", {"width": 0.0}, "0.125 to 2"),
        ("vgg16", {"pool": "avg"}, "one of vgg, caffe, deeplab"),
        ("vgg16", {"width": 0.5}, "no such setting"),
    ],
)
def test_invalid_settings_are_rejected(name, options, message):
    with pytest.raises(ConfigError, match=message):
        BACKBONES.build(name, **options)


class Cascade(nn.Module):
    """The backbone as ICNet runs it.

    Up to c3_1, then downsampling by two, then the rest.
    """

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        inner = self.backbone.forward_stages(x, last="c3_1")["c3_1"]
        return inner, self.backbone.forward_stages(inner[..., ::2, ::2], first="after_c3_1")["c5"]


@pytest.mark.integration
@pytest.mark.parametrize(
    "make",
    [lambda: ResNet("tiny", (1, 2, 1, 1), "deep", "1x1", 0.125), lambda: build("vgg16", **SMALL["vgg16"])],
    ids=["resnet", "vgg16"],
)
@torch.no_grad()
def test_export_with_dynamic_height_and_width(make):
    net = Cascade(make().set_output_stride_(8).eval())
    dynamic = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(net, (image(64, 96),), dynamic_shapes=(dynamic,)).module()
    for size in ((97, 65), (72, 128)):
        for actual, expected in zip(exported(image(*size)), net(image(*size)), strict=True):
            assert distance(actual, expected) < 1e-5
