"""Pruned networks: the right channels go together, what is left is what the masked network was, and half of ICNet is its release."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from varied_networks import varied_

from segzoo.api import create_model
from segzoo.layers.channel_widths import set_channel_widths_
from segzoo.pruning.dependency_graph import KEPT, trace_channels
from segzoo.pruning.selection import channel_importance, select_channels
from segzoo.pruning.sensitivity import SensitivityCurve, equal_loss_ratios
from segzoo.pruning.surgery import channels_masked, remove_channels_
from segzoo.registry import MODELS, PRUNERS, ConfigError

TRUNKS: dict[str, dict[str, Any]] = {
    "vgg": {"name": "vgg16", "batch_norm": True},
    "resnet": {"name": "resnet50", "width": 0.125, "stem": "deep"},
}
PAIRS = [(model, trunk) for model in MODELS.names() for trunk in TRUNKS]


class Told:
    """Evidence as a test wants it."""

    def __init__(self, gradients=None, loss=lambda: 0.0):
        self.loss, self._gradients = loss, gradients

    def gradients(self):
        yield self._gradients


def small(name, trunk, **given):
    torch.manual_seed(0)
    if name in ("parsenet", "deeplab_largefov") or (name == "fcn" and trunk == "vgg"):
        given["fc_channels"] = 32
    model: Any = create_model(name, backbone=TRUNKS[trunk], num_classes=5, **given).eval()
    return varied_(model)


def l1(model):
    weights = dict(model.named_parameters())
    return lambda slot: weights[slot.name].abs().sum([dim for dim in range(4) if dim != slot.dim])


def plan(model, keep, **words):
    channels = trace_channels(model)
    return channels, select_channels(channels, channel_importance(channels, l1(model)), keep, **words)


@torch.no_grad()
def masked_(model, channels, gone):
    """Makes the dropped channels always zero: their filters, biases and norms, not what reads them."""
    state = model.state_dict()
    for slot in [*channels.makers, *(s for s in channels.slots if s.dim == 0 and state[s.name].dim() == 1)]:
        if slot.name.endswith(("running_mean", "running_var")):
            continue
        positions = [i for i, channel in enumerate(channels.slots[slot]) if channel in gone]
        state[slot.name].index_fill_(slot.dim, torch.tensor(positions, dtype=torch.long), 0)


@pytest.mark.parametrize(
    "name, trunk", [pytest.param(*pair, marks=[pytest.mark.slow] if pair[1] == "vgg" else []) for pair in PAIRS]
)
@torch.no_grad()
def test_a_pruned_network_answers_as_the_masked_one(name, trunk):
    model, x = small(name, trunk), torch.randn(1, 3, 64, 80)
    channels, gone = plan(model, 0.5)
    assert gone and KEPT not in gone
    cut, masked = small(name, trunk), model
    masked_(masked, channels, gone)
    before = sum(p.numel() for p in cut.parameters())
    widths = remove_channels_(cut, channels, gone)
    assert widths and sum(p.numel() for p in cut.parameters()) < 0.5 * before
    wanted = masked(x).main
    torch.testing.assert_close(cut(x).main, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
    cut.fuse_for_inference_()
    torch.testing.assert_close(cut(x).main, wanted, rtol=0, atol=1e-4 * wanted.abs().max().item())


def test_half_of_icnet_is_its_release():
    """The real network, not its shapes alone: as large as the release, and as right as the whole one with the channels masked."""
    backbone: dict[str, Any] = {"name": "resnet50", "stem": "deep", "stride_at": "1x1"}

    def count(model):
        return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("aux."))

    with torch.device("meta"):
        half = create_model("icnet", backbone=backbone | {"width": 0.5}, num_classes=19)
    torch.manual_seed(0)
    model: Any = create_model("icnet", backbone=backbone, num_classes=19).eval()
    assert count(model) == 26_734_483
    varied_(model)
    pruner, x = PRUNERS.build("l1", keep_ratio=0.5), torch.randn(1, 3, 65, 97)
    ranking = pruner.ranking(model, None)
    with torch.no_grad(), channels_masked(model, ranking.channels, ranking.select(0.5)):
        wanted = model(x).main
    pruner.prune_(model, 0.5, None)
    assert count(model) == 6_699_987
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in half.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(model(x).main, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


@pytest.mark.parametrize("name, trunk", PAIRS)
def test_classes_and_colours_stay(name, trunk):
    model = small(name, trunk)
    remove_channels_(model, *plan(model, 0.1))
    assert next(p for p in model.parameters() if p.dim() == 4).shape[1] == 3
    assert model(torch.randn(1, 3, 64, 64)).main.shape[1] == 5
    out = model.train()(torch.randn(2, 3, 128, 128))
    torch.stack([logits.sum() for logits in (out.main, *out.aux)]).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters() if p.requires_grad)


def test_layers_are_told_their_widths():
    model = small("icnet", "resnet")
    remove_channels_(model, *plan(model, 0.5))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight)


def test_kept_numbers_are_multiples_and_excluded_layers_stay():
    model = small("icnet", "resnet")
    stem = {name: weight.clone() for name, weight in model.named_parameters() if name.startswith("backbone.c1.")}
    channels, gone = plan(model, 0.4, multiple=4, exclude=("backbone.c1",))
    whole = [block for block in channels.groups if any(slot.name.startswith("backbone.c1") for slot in channels.filters(block))]
    assert len(whole) == 3 and not gone & {channel for block in whole for channel in block}
    for block in channels.groups:
        left = sum(channel not in gone for channel in block)
        assert block in whole or left % 4 == 0 and left < len(block) or len(block) == left <= 4
    widths = remove_channels_(model, channels, gone)
    assert widths["backbone.c2.0.conv1"] == len(model.get_parameter("backbone.c2.0.conv1.weight")) == 4
    for name, weight in stem.items():
        assert torch.equal(model.get_parameter(name), weight)


def test_a_global_budget_takes_where_least_is_lost():
    model = small("pspnet", "resnet")
    channels = trace_channels(model)
    worth = {channel: 1.0 for block in channels.groups for channel in block}
    spiky = channels.groups[3]
    worth |= {channel: 0.01 for channel in spiky[: len(spiky) // 2]} | {channel: 2.0 for channel in spiky[len(spiky) // 2 :]}
    gone = select_channels(channels, worth, 0.995, how="global")
    assert set(spiky[: len(spiky) // 2]) & gone and not set(spiky[len(spiky) // 2 :]) & gone


def test_other_tensors_are_refused():
    with pytest.raises(ValueError, match="more than channel counts: score.bias"):
        set_channel_widths_(nn.ModuleDict({"score": nn.Conv2d(3, 4, 1)}), {"score.weight": torch.zeros(2, 3, 1, 1)})


def test_grouped_convolutions_are_refused():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=3)

        def forward(self, x):
            return (self.conv(self.first(x)),)

    with pytest.raises(NotImplementedError, match="grouped"):
        trace_channels(Grouped())


@pytest.mark.parametrize("name", [name for name in PRUNERS.names() if name not in ("none", "taylor")])
def test_pruners_take_what_their_ranking_says(name):
    model = small("icnet", "resnet")
    norm = model.high[0].bn
    with torch.no_grad():
        model.high[0].conv.weight[1].mul_(100)
        norm.weight[1] = 100.0
    kept = model.high[0].conv.weight[1].clone()
    PRUNERS.build(name, allocation="uniform", keep_ratio=0.5).prune_(model, 0.5, None)
    assert model.high[0].conv.out_channels == norm.num_features == len(norm.running_mean) == len(norm.weight)
    if name != "random":
        assert any(torch.equal(row, kept) for row in model.high[0].conv.weight)


def test_random_pruning_draws_the_same_lot_again():
    first, again, other = small("icnet", "resnet"), small("icnet", "resnet"), small("icnet", "resnet")
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        PRUNERS.build("random", seed=seed).prune_(model, 0.5, None)
    assert torch.equal(first.score.weight, again.score.weight) and not torch.equal(first.score.weight, other.score.weight)


def test_taylor_removes_what_the_loss_does_not_feel():
    model = small("icnet", "resnet")
    gradients = {name: torch.ones_like(p) for name, p in model.named_parameters() if not name.startswith("aux")}
    gradients["high.0.conv.weight"][:4] = 0
    kept = model.high[0].conv.weight[4:].clone()
    PRUNERS.build("taylor", allocation="uniform").prune_(model, len(kept) / (len(kept) + 4), Told(gradients))
    assert torch.equal(model.high[0].conv.weight, kept)


def test_masked_layers_are_themselves_again():
    model = small("icnet", "resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    channels, gone = plan(model, 0.5)
    with channels_masked(model, channels, gone):
        assert not torch.equal(model.high[0].conv.weight, before["high.0.conv.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_scan_spares_the_layer_that_the_loss_feels():
    model = small("icnet", "resnet")
    touchy = model.high[0].conv.weight
    whole = touchy.abs().sum().item()
    evidence = Told(loss=lambda: 1.0 + 5 * (1 - touchy.abs().sum().item() / whole))
    pruner = PRUNERS.build("l1", allocation="sensitivity")
    ranking = pruner.ranking(model, evidence)
    assert touchy.abs().sum().item() == whole
    curve = next(curve for curve in ranking.curves if curve.layers == ("high.0.conv",))
    assert list(curve.losses) == [1.0, 0.75, 0.5, 0.25] and sorted(curve.losses.values()) == list(curve.losses.values())
    channels = ranking.channels
    pruner.prune_(model, 0.5, evidence)
    left = sum(len(block) for block in trace_channels(model).groups) / sum(len(block) for block in channels.blocks)
    assert left == pytest.approx(0.5, abs=0.02) and len(model.high[0].conv.weight) == len(touchy)


def test_a_scan_that_would_be_uniform_is_refused():
    for words in ({"keep_ratio": 0.25}, {"keep_schedule": [0.8, 0.2]}):
        with pytest.raises(
            ConfigError, match="pruner.allocation=sensitivity looks at layers with 75%, 50%, 25%.*pruner.allocation=uniform"
        ):
            PRUNERS.build("l1", allocation="sensitivity", **words)
    assert PRUNERS.build("l1", allocation="sensitivity", keep_schedule=[0.5, 0.2]).keep_ratios == (0.5, 0.2)
    sought = PRUNERS.build("l1", allocation="sensitivity", target_gmacs=1.0, start=0.0)
    with pytest.raises(ConfigError, match="at 12% all would keep alike"):
        dataclasses.replace(sought, shares=(0.12,), target=None)


@given(st.lists(st.tuples(st.integers(1, 64), *[st.floats(0, 2)] * 3), min_size=1, max_size=8), st.floats(0.05, 1))
def test_fair_shares_keep_what_was_asked_and_raise_the_loss_alike(blocks, keep):
    curves = [
        SensitivityCurve(place, (str(place),), count, {1.0: 0.0, 0.75: a, 0.5: a + b, 0.25: a + b + c})
        for place, (count, a, b, c) in enumerate(blocks)
    ]
    shares = equal_loss_ratios(curves, keep)
    stay = sum(shares[curve.group] * curve.channels for curve in curves) / sum(curve.channels for curve in curves)
    assert stay == pytest.approx(keep, abs=1e-6)
    for one in curves:  # a block that loses more does not raise the loss more than one that could lose as much and does not
        for other in curves:
            if all(one.losses[share] <= other.losses[share] for share in one.losses):
                assert shares[one.group] <= shares[other.group] + 1e-6


def pressed(model, **words):
    """The name of each norm's scales that are pressed, with the weights."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[scale]: weight for scale, weight in PRUNERS.build("bn_scale", **words).sparsity_terms(model)}


def test_only_norms_of_channels_that_may_go_are_pressed():
    model = small("icnet", "resnet")
    assert not pressed(model, sparsity=0.0)
    assert all((weight == 0.1).all() for weight in pressed(model, sparsity=0.1).values())
    found = pressed(model, sparsity=0.1, exclude=["high", "backbone.c1"])
    assert {name for name, weight in found.items() if not weight.any()} == {
        name for name in found if name.startswith(("high.", "backbone.c1."))
    }
    assert (found["cff12.low.bn.weight"] == 0.1).all()


def test_bn_scale_says_where_there_is_no_norm():
    plain = create_model("parsenet", backbone={"name": "vgg16"}, num_classes=5, fc_channels=16)
    with pytest.raises(ConfigError, match="has no batch norm behind it"):
        PRUNERS.build("bn_scale").prune_(plain, 0.5, None)


def test_excluded_layers_are_not_asked_for_a_norm():
    model = small("parsenet", "vgg")
    PRUNERS.build("bn_scale", allocation="uniform", exclude=["fc"]).prune_(model, 0.5, None)
    assert model.backbone.c1[0].out_channels == 32 and model.fc[0].out_channels == 32


def test_what_cannot_be_pruned_so_is_refused_beforehand():
    model = small("icnet", "resnet").to("meta")
    PRUNERS.build("taylor", exclude=["backbone.c1", "high"]).check(model)
    with pytest.raises(ConfigError, match=r"pruner.exclude=backbone.stem is the beginning of no layer's name. Near: .*backbone"):
        PRUNERS.build("l1", exclude=["high", "backbone.stem"]).check(model)
    with pytest.raises(ConfigError, match="has no batch norm behind it"):
        PRUNERS.build("bn_scale").check(create_model("fcn", backbone={"name": "vgg16"}, num_classes=5, fc_channels=16))
    with pytest.raises(ConfigError, match="that is never"):
        PRUNERS.build("l1", start=1.0)
    with pytest.raises(ConfigError, match="2 steps are too short for 3 stages"):
        PRUNERS.build("l1", keep_schedule=[0.75, 0.5, 0.25]).stages(2)
    with pytest.raises(ConfigError, match=r"target_gmacs with pruner.allocation=global needs pruner.start=0"):
        PRUNERS.build("taylor", target_gmacs=1.0)


def test_layers_that_never_run_are_no_channels():
    model = small("icnet", "resnet", branches=24)
    channels = trace_channels(model)
    assert channels.groups and all(channels.filters(block) for block in channels.groups)
    PRUNERS.build("l1").prune_(model, 0.5, None)
    assert model(torch.zeros(1, 3, 64, 64)).main.isfinite().all()


def test_a_layer_that_is_worth_nothing_gives_the_common_share():
    model = small("pspnet", "resnet")
    channels = trace_channels(model)
    worth = {channel: 1.0 + channel % 7 for block in channels.groups for channel in block}
    silent = channels.groups[-1]
    gone = select_channels(channels, worth | dict.fromkeys(silent, 0.0), 0.75, how="global")
    assert len(set(silent) & gone) == len(silent) / 4


def test_equal_channels_go_evenly():
    channels = trace_channels(small("icnet", "resnet"))
    gone = select_channels(channels, {channel: 1.0 for block in channels.groups for channel in block}, 0.5, how="global")
    for block in channels.groups:
        assert abs(len(set(block) & gone) - len(block) / 2) <= 1


@pytest.mark.parametrize(
    "how, multiple",
    [("global", 1), *(pytest.param(*other, marks=pytest.mark.slow) for other in (("uniform", 8), ("uniform", 1), ("global", 8)))],
)
def test_stages_end_where_one_cut_does(how, multiple):
    model, whole = small("icnet", "resnet"), small("icnet", "resnet")
    first = {name: layer.out_channels for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    pruner = PRUNERS.build("l1", allocation=how, round_to=multiple)
    for keep in (0.9, 0.7, 0.5):
        pruner.prune_(model, keep, None, first)
    pruner.prune_(whole, 0.5, None)
    counts = [sum(map(len, trace_channels(net).groups)) for net in (model, whole)]
    if how == "uniform":
        assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    else:
        assert counts[0] == pytest.approx(counts[1], rel=0.02 * multiple)


def test_norms_over_several_ranks_are_norms():
    model: Any = nn.SyncBatchNorm.convert_sync_batchnorm(small("icnet", "resnet"))
    for layer in model.modules():
        if isinstance(layer, nn.SyncBatchNorm):
            layer.weight.grad = torch.zeros_like(layer.weight)
    assert (pressed(model, sparsity=0.1)["high.0.bn.weight"] > 0).all()
    PRUNERS.build("bn_scale", allocation="uniform").prune_(model, 0.5, None)


def test_stages_are_spread_over_what_is_left_and_must_fall():
    assert PRUNERS.build("l1", keep_schedule=[0.75, 0.5], start=0.5).stages(100) == [(50, 0.75), (75, 0.5)]
    assert PRUNERS.build("l1", keep_ratio=0.5, start=0.0).stages(100) == [(0, 0.5)]
    with pytest.raises(ConfigError, match="must fall"):
        PRUNERS.build("l1", keep_schedule=[0.5, 0.75])
