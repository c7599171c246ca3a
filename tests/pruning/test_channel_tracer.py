"""Channels through every form of every network, and through operations that pruning knows, rejects, or leaves whole when told to."""

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
NUMBERS = {
    "aux_weight": [0.0],
    "bins": [(), (2,)],
    "convs": [2],
    "fc_channels": [0],
    "kernel": [1],
}  # of settings that are no choice
SIZES = ("align_corners", "first_block_dilation", "output_stride")  # choices that change the sizes of maps and no channel
TRUNK = {"batch_norm": True, "pool": "caffe"}


def choices(builder: Any, name: str) -> list[Any]:
    """Every value but the default of a setting that is a choice, and those of ``NUMBERS`` that are valid for this builder."""
    setting = settings_of(builder)[name]
    if setting.type is bool:
        return [not setting.default]
    if get_origin(setting.type) is Literal:
        return [value for value in get_args(setting.type) if value != setting.default]
    return [] if builder is MODELS.get("deeplab_largefov") and name == "fc_channels" else NUMBERS.get(name, [])


FORMS = [
    (model, name, value)
    for model in MODELS.names()
    for name in settings_of(MODELS.get(model))
    for value in choices(MODELS.get(model), name)
]
FORMS += [
    ("pspnet", "pool=max reduce", False),
    ("fcn_dilated", "concat_input convs", 2),
    ("parsenet", "fc_channels=0 fusion", "early"),
]
TRUNKS = [
    (trunk, name, value)
    for trunk in ("vgg16", "resnet50")
    for name in settings_of(BACKBONES.get(trunk))
    for value in choices(BACKBONES.get(trunk), name)
]


def half_of(channels: ChannelGraph) -> set[int]:
    return select_channels(channels, {channel: 1.0 for block in channels.groups for channel in block}, 0.5)


@torch.no_grad()
def answers(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Of an evaluation, and with the heads of training."""
    main = model.eval()(x).main
    model.training = True
    found = model(x)
    return [main, found.main, *found.aux]


def check(model: Any, x: torch.Tensor) -> None:
    """Cut to half, a network answers as with the channels masked."""
    channels, cut = trace_channels(model), copy.deepcopy(model)
    with channels_masked(model, channels, half_of(channels)):
        wanted = answers(model, x)
    assert remove_channels_(cut, channels, half_of(channels))
    for found, logits in zip(answers(cut, x), wanted, strict=True):
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-5 * logits.abs().max().item())


@pytest.mark.parametrize(
    "model, name, value",
    [pytest.param(*form, marks=[pytest.mark.slow] if form[1] in SIZES else []) for form in FORMS],
    ids=lambda v: str(v).replace(" ", "-"),
)
def test_every_form_of_a_model_can_be_cut(monkeypatch, model, name, value):
    monkeypatch.setattr(vgg, "STAGES", SHALLOW)
    torch.manual_seed(0)
    *words, name = name.split()
    given: dict[str, Any] = {"fc_channels": 16} if "fc_channels" in settings_of(MODELS.get(model)) else {}
    given |= {"pool=max": {"pool": "max"}, "concat_input": {"concat_input": True}, "fc_channels=0": {"fc_channels": 0}}.get(
        "".join(words), {}
    )
    check(varied_(MODELS.build(model, vgg.vgg16(**TRUNK), 5, **given | {name: value})), torch.randn(1, 3, 64, 80))


@pytest.mark.parametrize("trunk, name, value", TRUNKS)
def test_every_form_of_a_trunk_can_be_cut(monkeypatch, trunk, name, value):
    monkeypatch.setattr(vgg, "STAGES", SHALLOW)
    torch.manual_seed(0)
    forms: Any = {"stem": "basic", "stride_at": "3x3"} | {name: value}
    build = {
        "vgg16": lambda: vgg.vgg16(**TRUNK | {name: value}),
        "resnet50": lambda: ResNet("resnet", (1, 1, 1, 1), width=0.125, **forms),
    }
    check(varied_(MODELS.build("pspnet", build[trunk](), 5)), torch.randn(1, 3, 64, 80))


def test_the_forms_are_there():
    """What the sweeps above would pass over in silence."""
    assert {("pspnet", "pool", "max"), ("pspnet", "reduce", False), ("deeplab_largefov", "msc", "joint")} <= set(FORMS)
    assert ("resnet50", "stride_at", "1x1") in TRUNKS and ("vgg16", "pool", "deeplab") in TRUNKS


class Net(nn.Module):
    """Two convolutions around an operation."""

    def __init__(self, middle, cin=8):
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 3, padding=1), middle, nn.Conv2d(cin, 2, 1)

    def forward(self, x):
        return (self.last(self.middle(self.first(x))),)


class Does(nn.Module):
    def __init__(self, what, *layers):
        super().__init__()
        self.what, self.layers = what, nn.ModuleList(layers)

    def forward(self, x):
        return self.what(x, *self.layers)


REFUSED = {
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


@pytest.mark.parametrize("operation", REFUSED)
def test_what_mixes_channels_is_refused_and_left_whole_when_told(operation):
    what, cin, *layers = REFUSED[operation]
    net = Net(Does(what, *layers), cin)
    with pytest.raises(
        NotImplementedError, match=rf"^aten.{operation}\b.* in middle.*channels of first .*pruner.exclude=\[first\]"
    ):
        trace_channels(net)
    with pytest.raises(ConfigError, match=f"^pruner: aten.{operation}"):
        PRUNERS.build("l1").check(net)
    with pytest.raises(ConfigError, match=f"^pruner: aten.{operation}"):
        PRUNERS.build("l1").prune_(net, 0.5, None)
    assert not trace_channels(net, exclude=["first"]).groups
    with pytest.raises(ConfigError, match="every channel of this network has to stay"):
        PRUNERS.build("l1", exclude=["first"]).check(net)


FOLLOWED = {
    "indexed": lambda x: x[:, :, torch.arange(12)][..., 1:],
    "picked": lambda x: x[:, :, [0, 2], [1, 3]][..., None],
    "prelu": (lambda x, prelu: prelu(x), nn.PReLU(8)),
    "gated": (lambda x, gate: x * gate(x.mean((2, 3), keepdim=True)).sigmoid(), nn.Conv2d(8, 8, 1)),
    "attended": lambda x: (x.flatten(2).transpose(1, 2) @ x.flatten(2)).softmax(2)[:, None] * x.mean((2, 3))[:, :, None, None],
    "pooled": lambda x: F.interpolate(F.adaptive_avg_pool2d(F.pad(x, (1, 1)), 3), scale_factor=2, mode="nearest"),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_leaves_channels_apart_is_followed(name):
    what, *layers = FOLLOWED[name] if isinstance(FOLLOWED[name], tuple) else (FOLLOWED[name],)
    torch.manual_seed(0)
    net, x = Net(Does(what, *layers)), torch.randn(1, 3, 16, 16)
    channels, cut = trace_channels(net, size=16), copy.deepcopy(net)
    gone = half_of(channels)
    with channels_masked(net, channels, gone):
        wanted = net(x)[0]
    assert remove_channels_(cut, channels, gone)["first"] == 4
    torch.testing.assert_close(cut(x)[0], wanted)


def test_a_sum_with_what_stays_stays():
    net = Net(Does(lambda x: x + torch.ones(1, 8, 1, 1, device=x.device)))
    assert not trace_channels(net).groups


def test_a_network_whose_code_holds_widths_is_refused_before_it_is_trained():
    net = Net(Does(lambda x: x.view(1, 8, -1).reshape(1, 8, *x.shape[2:])))
    assert trace_channels(net).groups
    with pytest.raises(ConfigError, match="does not run: shape .* is invalid.*Its code holds numbers of channels"):
        PRUNERS.build("l1").check(net)
    assert net.first.out_channels == 8 and net.training and not net.first.weight.is_meta
