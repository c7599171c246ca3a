"""Channel tracing through every variant of every model, and through single operations."""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from varied_networks import varied_

from segzoo.backbones import vgg
from segzoo.backbones.resnet import ResNet
from segzoo.pruning.dependency_graph import ChannelGraph, trace_channels
from segzoo.pruning.selection import select_channels
from segzoo.pruning.surgery import channels_masked, remove_channels_
from segzoo.registry import BACKBONES, MODELS, PRUNERS, ConfigError, settings_of

SHALLOW = tuple((channels, 1) for channels in (6, 8, 10, 12, 14))
VALUES = {"aux_weight": [0.0], "bins": [(), (2,)], "convs": [2], "fc_channels": [0], "kernel": [1]}  # of other settings
SIZES = ("align_corners", "first_block_dilation", "output_stride")  # settings that change the size of feature maps only
VGG = {"batch_norm": True, "pool": "caffe"}


def choices(builder: Any, name: str) -> list[Any]:
    """Every value of a setting to test, apart from its default.

    They are all values of a setting with a fixed list of them, else those of ``VALUES``, if the builder accepts them.
    """
    setting = settings_of(builder)[name]
    if setting.type is bool:
        return [not setting.default]
    if get_origin(setting.type) is Literal:
        return [value for value in get_args(setting.type) if value != setting.default]
    return [] if builder is MODELS.get("deeplab_largefov") and name == "fc_channels" else VALUES.get(name, [])


VARIANTS = [
    (model, name, value)
    for model in MODELS.names()
    for name in settings_of(MODELS.get(model))
    for value in choices(MODELS.get(model), name)
]
VARIANTS += [
    ("pspnet", "pool=max reduce", False),
    ("fcn_dilated", "concat_input convs", 2),
    ("parsenet", "fc_channels=0 fusion", "early"),
]
BACKBONE_VARIANTS = [
    (backbone, name, value)
    for backbone in ("vgg16", "resnet50")
    for name in settings_of(BACKBONES.get(backbone))
    if name != "checkpoint"  # of training only
    for value in choices(BACKBONES.get(backbone), name)
]


def half_of(graph: ChannelGraph) -> set[int]:
    return select_channels(graph, {channel: 1.0 for group in graph.groups for channel in group}, 0.5)


@torch.no_grad()
def outputs(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """All logits, in evaluation and with the training-only heads."""
    main = model.eval()(x).main
    model.training = True
    logits = model(x)
    return [main, logits.main, *logits.aux]


def check(model: Any, x: torch.Tensor) -> None:
    """A pruned model computes the same as the masked one."""
    graph, pruned = trace_channels(model), copy.deepcopy(model)
    with channels_masked(model, graph, half_of(graph)):
        expected = outputs(model, x)
    assert remove_channels_(pruned, graph, half_of(graph))
    for actual, logits in zip(outputs(pruned, x), expected, strict=True):
        torch.testing.assert_close(actual, logits, rtol=0, atol=1e-5 * logits.abs().max().item())


@pytest.mark.parametrize(
    "model, name, value",
    [pytest.param(*variant, marks=[pytest.mark.slow] if variant[1] in SIZES else []) for variant in VARIANTS],
    ids=lambda v: str(v).replace(" ", "-"),
)
def test_every_variant_of_a_model_can_be_pruned(monkeypatch, model, name, value):
    monkeypatch.setattr(vgg, "STAGES", SHALLOW)
    torch.manual_seed(0)
    *others, name = name.split()
    settings: dict[str, Any] = {"fc_channels": 16} if "fc_channels" in settings_of(MODELS.get(model)) else {}
    settings |= {"pool=max": {"pool": "max"}, "concat_input": {"concat_input": True}, "fc_channels=0": {"fc_channels": 0}}.get(
        "".join(others), {}
    )
    check(varied_(MODELS.build(model, vgg.vgg16(**VGG), 5, **settings | {name: value})), torch.randn(1, 3, 64, 80))


@pytest.mark.parametrize("backbone, name, value", BACKBONE_VARIANTS)
def test_every_variant_of_a_backbone_can_be_pruned(monkeypatch, backbone, name, value):
    monkeypatch.setattr(vgg, "STAGES", SHALLOW)
    torch.manual_seed(0)
    settings: Any = {"stem": "basic", "stride_at": "3x3"} | {name: value}
    build = {
        "vgg16": lambda: vgg.vgg16(**VGG | {name: value}),
        "resnet50": lambda: ResNet("resnet", (1, 1, 1, 1), width=0.125, **settings),
    }
    check(varied_(MODELS.build("pspnet", build[backbone](), 5)), torch.randn(1, 3, 64, 80))


def test_the_variants_are_complete():
    """Variants whose absence the tests above would not notice."""
    assert {("pspnet", "pool", "max"), ("pspnet", "reduce", False), ("deeplab_largefov", "msc", "joint")} <= set(VARIANTS)
    assert ("resnet50", "stride_at", "1x1") in BACKBONE_VARIANTS and ("vgg16", "pool", "deeplab") in BACKBONE_VARIANTS


class Net(nn.Module):
    """Two convolutions around an operation."""

    def __init__(self, middle, cin=8):
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 3, padding=1), middle, nn.Conv2d(cin, 2, 1)

    def forward(self, x):
        return (self.last(self.middle(self.first(x))),)


class Apply(nn.Module):
    """A function of the input and some layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


REJECTED = {
    "native_group_norm": (lambda x, norm: norm(x), 8, nn.GroupNorm(2, 8)),
    "convolution": (lambda x, conv: conv(x), 8, nn.Conv2d(8, 8, 3, padding=1, groups=8)),
    "addmm": (lambda x, linear: linear(x.mean((2, 3)))[..., None, None], 5, nn.Linear(8, 5)),
    "mm": (lambda x, linear: linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 5, nn.Linear(8, 5, bias=False)),
    "split": (lambda x: torch.mul(*x.chunk(2, 1)), 4),
    "slice": (lambda x: torch.cat([x[:, 4:], x[:, :4]], 1), 8),
    "index": (lambda x: x[:, [3, 2, 1, 0]], 4),
    "index_select": (lambda x: x.index_select(1, torch.arange(7, -1, -1, device=x.device)), 8),
    "flip": (lambda x: x.flip(1), 8),
    "roll": (lambda x: x.roll(1, 1), 8),
    "_softmax": (lambda x: x.softmax(1), 8),
    "mean": (lambda x: x - x.mean(1, keepdim=True), 8),
    "constant_pad_nd": (lambda x: F.pad(x, (0, 0, 0, 0, 1, -1)), 8),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), 2),
    "cumsum": (lambda x: x.cumsum(1), 8),
}


@pytest.mark.parametrize("operation", REJECTED)
def test_operations_that_mix_channels_are_rejected_unless_excluded(operation):
    function, cin, *layers = REJECTED[operation]
    net = Net(Apply(function, *layers), cin)
    with pytest.raises(
        NotImplementedError, match=rf"^aten.{operation}\b.* in middle.*channels of first .*pruner.exclude=\[first\]"
    ):
        trace_channels(net)
    with pytest.raises(ConfigError, match=f"^pruner: aten.{operation}"):
        PRUNERS.build("l1").check(net)
    with pytest.raises(ConfigError, match=f"^pruner: aten.{operation}"):
        PRUNERS.build("l1").prune_(net, 0.5, None)
    assert not trace_channels(net, exclude=["first"]).groups
    with pytest.raises(ConfigError, match="no channel of this model can be removed"):
        PRUNERS.build("l1", exclude=["first"]).check(net)


TRACED = {
    "indexed": lambda x: x[:, :, torch.arange(12)][..., 1:],
    "picked": lambda x: x[:, :, [0, 2], [1, 3]][..., None],
    "prelu": (lambda x, prelu: prelu(x), nn.PReLU(8)),
    "normalized": lambda x: x / (1 + x.square().sum(1, keepdim=True)).sqrt(),
    "gated": (lambda x, gate: x * gate(x.mean((2, 3), keepdim=True)).sigmoid(), nn.Conv2d(8, 8, 1)),
    "attended": lambda x: (x.flatten(2).transpose(1, 2) @ x.flatten(2)).softmax(2)[:, None] * x.mean((2, 3))[:, :, None, None],
    "pooled": lambda x: F.interpolate(F.adaptive_avg_pool2d(F.pad(x, (1, 1)), 3), scale_factor=2, mode="nearest"),
}


@pytest.mark.parametrize("name", TRACED)
def test_operations_that_keep_channels_apart_are_traced(name):
    function, *layers = TRACED[name] if isinstance(TRACED[name], tuple) else (TRACED[name],)
    torch.manual_seed(0)
    net, x = Net(Apply(function, *layers)), torch.randn(1, 3, 16, 16)
    graph, pruned = trace_channels(net, size=16), copy.deepcopy(net)
    removed = half_of(graph)
    with channels_masked(net, graph, removed):
        expected = net(x)[0]
    assert remove_channels_(pruned, graph, removed)["first"] == 4
    torch.testing.assert_close(pruned(x)[0], expected)


def test_channels_added_to_a_constant_are_kept():
    net = Net(Apply(lambda x: x + torch.ones(1, 8, 1, 1, device=x.device)))
    assert not trace_channels(net).groups


def test_models_with_fixed_channel_counts_are_rejected_before_training():
    net = Net(Apply(lambda x: x.view(1, 8, -1).reshape(1, 8, *x.shape[2:])))
    assert trace_channels(net).groups
    with pytest.raises(ConfigError, match="fails with fewer channels: shape .* is invalid.*Its code contains fixed channel counts"):
        PRUNERS.build("l1").check(net)
    assert net.first.out_channels == 8 and net.training and not net.first.weight.is_meta
