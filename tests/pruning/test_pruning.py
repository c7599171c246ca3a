"""Criteria, selection, removal and stages of pruning on small models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
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

BACKBONES: dict[str, dict[str, Any]] = {
    "vgg": {"name": "vgg16", "batch_norm": True},
    "resnet": {"name": "resnet50", "width": 0.125, "stem": "deep"},
}
PAIRS = [(model, backbone) for model in MODELS.names() for backbone in BACKBONES]


class FakeCalibration:
    """Calibration data with a given loss and given gradients."""

    def __init__(self, gradients=None, loss=lambda: 0.0):
        self.loss, self._gradients = loss, gradients

    def gradients(self):
        yield self._gradients


def small_model(name, backbone, **settings):
    torch.manual_seed(0)
    if name in ("parsenet", "deeplab_largefov") or (name == "fcn" and backbone == "vgg"):
        settings["fc_channels"] = 32
    model: Any = create_model(name, backbone=BACKBONES[backbone], num_classes=5, **settings).eval()
    return varied_(model)


def l1(model):
    weights = dict(model.named_parameters())
    return lambda producer: weights[producer.name].abs().sum([dim for dim in range(4) if dim != producer.dim])


def select(model, keep_ratio, **settings):
    """Select the channels with the smallest L1 norm."""
    graph = trace_channels(model)
    return graph, select_channels(graph, channel_importance(graph, l1(model)), keep_ratio, **settings)


@torch.no_grad()
def mask_(model, graph, removed):
    """Set filters, biases and batch norm of removed channels to zero.

    The weights that read these channels are not changed.
    """
    state = model.state_dict()
    for param_dim in [*graph.producers, *(d for d in graph.dims if d.dim == 0 and state[d.name].dim() == 1)]:
        if param_dim.name.endswith(("running_mean", "running_var")):
            continue
        indices = [i for i, channel in enumerate(graph.dims[param_dim]) if channel in removed]
        state[param_dim.name].index_fill_(param_dim.dim, torch.tensor(indices, dtype=torch.long), 0)


@pytest.mark.parametrize(
    "name, backbone", [pytest.param(*pair, marks=[pytest.mark.slow] if pair[1] == "vgg" else []) for pair in PAIRS]
)
@torch.no_grad()
def test_pruned_model_equals_masked_model(name, backbone):
    model, x = small_model(name, backbone), torch.randn(1, 3, 64, 80)
    graph, removed = select(model, 0.5)
    assert removed and KEPT not in removed
    pruned, masked = small_model(name, backbone), model
    mask_(masked, graph, removed)
    before = sum(p.numel() for p in pruned.parameters())
    widths = remove_channels_(pruned, graph, removed)
    assert widths and sum(p.numel() for p in pruned.parameters()) < 0.5 * before
    expected = masked(x).main
    torch.testing.assert_close(pruned(x).main, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    pruned.fuse_for_inference_()
    torch.testing.assert_close(pruned(x).main, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.integration
def test_half_of_icnet_is_its_published_half():
    """It has the shapes of the half-width model and the masked outputs."""
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
    with torch.no_grad(), channels_masked(model, ranking.graph, ranking.select(0.5)):
        expected = model(x).main
    pruner.prune_(model, 0.5, None)
    assert count(model) == 6_699_987
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in half.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(model(x).main, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    "name, backbone", [pytest.param(*pair, marks=[pytest.mark.integration] if pair[1] == "vgg" else []) for pair in PAIRS]
)
def test_classes_and_colors_are_kept(name, backbone):
    model = small_model(name, backbone)
    remove_channels_(model, *select(model, 0.1))
    assert next(p for p in model.parameters() if p.dim() == 4).shape[1] == 3
    assert model(torch.randn(1, 3, 64, 64)).main.shape[1] == 5
    out = model.train()(torch.randn(2, 3, 128, 128))
    torch.stack([logits.sum() for logits in (out.main, *out.aux)]).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters() if p.requires_grad)


def test_layer_attributes_match_the_pruned_weights():
    model = small_model("icnet", "resnet")
    remove_channels_(model, *select(model, 0.5))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight)


def test_channel_counts_are_rounded_and_excluded_layers_stay_whole():
    model = small_model("icnet", "resnet")
    stem = {name: weight.clone() for name, weight in model.named_parameters() if name.startswith("backbone.c1.")}
    graph, removed = select(model, 0.4, round_to=4, exclude=("backbone.c1",))
    whole = [group for group in graph.groups if any(p.name.startswith("backbone.c1") for p in graph.producers_of(group))]
    assert len(whole) == 3 and not removed & {channel for group in whole for channel in group}
    for group in graph.groups:
        kept = sum(channel not in removed for channel in group)
        assert group in whole or kept % 4 == 0 and kept < len(group) or len(group) == kept <= 4
    widths = remove_channels_(model, graph, removed)
    assert widths["backbone.c2.0.conv1"] == len(model.get_parameter("backbone.c2.0.conv1.weight")) == 4
    for name, weight in stem.items():
        assert torch.equal(model.get_parameter(name), weight)


def test_global_allocation_removes_the_least_important_channels_of_all_layers():
    graph = trace_channels(small_model("pspnet", "resnet"))
    importance = {channel: 1.0 for group in graph.groups for channel in group}
    uneven = graph.groups[3]
    low, high = uneven[: len(uneven) // 2], uneven[len(uneven) // 2 :]
    removed = select_channels(graph, importance | dict.fromkeys(low, 0.01) | dict.fromkeys(high, 2.0), 0.995, allocation="global")
    assert set(low) & removed and not set(high) & removed


def test_a_ranking_selects_by_its_allocation():
    model = small_model("pspnet", "resnet")
    selected = {}
    for allocation in ("uniform", "global"):
        ranking = PRUNERS.build("l1", allocation=allocation).ranking(model, None)
        selected[allocation] = ranking.select(0.6)
        assert selected[allocation] == select_channels(
            ranking.graph, ranking.importance, 0.6, allocation=allocation, round_to=ranking.round_to
        )
    assert selected["uniform"] != selected["global"]


def test_tensors_of_another_architecture_are_rejected():
    with pytest.raises(ValueError, match="in more than channel counts: score.bias"):
        set_channel_widths_(nn.ModuleDict({"score": nn.Conv2d(3, 4, 1)}), {"score.weight": torch.zeros(2, 3, 1, 1)})


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_loaded_widths_of_grouped_convolutions_count_every_group(kind):
    layer = nn.Sequential(kind(4, 6, 3, groups=2))
    assert set_channel_widths_(layer, layer.state_dict()) == {}
    assert (layer[0].in_channels, layer[0].out_channels) == (4, 6)


def test_grouped_convolutions_are_rejected():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=3)

        def forward(self, x):
            return (self.conv(self.first(x)),)

    with pytest.raises(NotImplementedError, match="grouped"):
        trace_channels(Grouped())


@pytest.mark.parametrize("name", [name for name in PRUNERS.names() if name not in ("none", "taylor")])
def test_pruners_keep_the_most_important_filter(name):
    model = small_model("icnet", "resnet")
    batch_norm = model.high[0].bn
    with torch.no_grad():
        model.high[0].conv.weight[1].mul_(100)
        batch_norm.weight[1] = 100.0
    important = model.high[0].conv.weight[1].clone()
    PRUNERS.build(name, allocation="uniform", keep_ratio=0.5).prune_(model, 0.5, None)
    width = model.high[0].conv.out_channels
    assert width == batch_norm.num_features == len(batch_norm.running_mean) == len(batch_norm.weight)
    if name != "random":
        assert any(torch.equal(row, important) for row in model.high[0].conv.weight)


@pytest.mark.integration
def test_random_pruning_depends_on_the_seed_alone():
    first, again, other = small_model("icnet", "resnet"), small_model("icnet", "resnet"), small_model("icnet", "resnet")
    for model, seed in ((first, 3), (again, 3), (other, 4)):
        PRUNERS.build("random", seed=seed).prune_(model, 0.5, None)
    assert torch.equal(first.score.weight, again.score.weight) and not torch.equal(first.score.weight, other.score.weight)


def test_taylor_removes_filters_without_gradient():
    model = small_model("icnet", "resnet")
    gradients = {name: torch.ones_like(p) for name, p in model.named_parameters() if not name.startswith("aux")}
    gradients["high.0.conv.weight"][:4] = 0
    kept = model.high[0].conv.weight[4:].clone()
    pruner = PRUNERS.build("taylor", allocation="uniform")
    pruner.prune_(model, len(kept) / (len(kept) + 4), FakeCalibration(gradients))
    assert torch.equal(model.high[0].conv.weight, kept)


def test_masked_layers_are_restored():
    model = small_model("icnet", "resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph, removed = select(model, 0.5)
    with channels_masked(model, graph, removed):
        assert not torch.equal(model.high[0].conv.weight, before["high.0.conv.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.integration
def test_sensitivity_allocation_keeps_the_layer_that_the_loss_depends_on():
    model = small_model("icnet", "resnet")
    sensitive = model.high[0].conv.weight
    total = sensitive.abs().sum().item()
    calibration = FakeCalibration(loss=lambda: 1.0 + 5 * (1 - sensitive.abs().sum().item() / total))
    pruner = PRUNERS.build("l1", allocation="sensitivity")
    ranking = pruner.ranking(model, calibration)
    assert sensitive.abs().sum().item() == total
    curve = next(curve for curve in ranking.curves if curve.layers == ("high.0.conv",))
    assert list(curve.losses) == [1.0, 0.75, 0.5, 0.25] and sorted(curve.losses.values()) == list(curve.losses.values())
    channels_before = sum(len(group) for group in ranking.graph.groups)
    pruner.prune_(model, 0.5, calibration)
    kept = sum(len(group) for group in trace_channels(model).groups) / channels_before
    assert kept == pytest.approx(0.5, abs=0.02) and len(model.high[0].conv.weight) == len(sensitive)


def test_sensitivity_allocation_below_the_scanned_ratios_is_rejected():
    for settings in ({"keep_ratio": 0.25}, {"keep_schedule": [0.8, 0.2]}):
        with pytest.raises(
            ConfigError, match="pruner.allocation=sensitivity measures layers with 75%, 50%, 25%.*pruner.allocation=uniform"
        ):
            PRUNERS.build("l1", allocation="sensitivity", **settings)
    assert PRUNERS.build("l1", allocation="sensitivity", keep_schedule=[0.5, 0.2]).keep_ratios == (0.5, 0.2)
    with_target = PRUNERS.build("l1", allocation="sensitivity", target_gmacs=1.0, start=0.0)
    with pytest.raises(ConfigError, match="at 12% all layers would keep the same ratio"):
        dataclasses.replace(with_target, keep_ratios=(0.12,), target=None)


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), *[st.floats(0, 2)] * 3), min_size=1, max_size=8), st.floats(0.05, 1))
def test_equal_loss_ratios_sum_to_the_keep_ratio_and_raise_the_loss_alike(groups, keep_ratio):
    curves = [
        SensitivityCurve(index, (str(index),), channels, {1.0: 0.0, 0.75: a, 0.5: a + b, 0.25: a + b + c})
        for index, (channels, a, b, c) in enumerate(groups)
    ]
    ratios = equal_loss_ratios(curves, keep_ratio)
    total = sum(ratios[curve.group] * curve.channels for curve in curves) / sum(curve.channels for curve in curves)
    assert total == pytest.approx(keep_ratio, abs=1e-6)
    for one in curves:  # a group whose loss rises no faster than another's keeps no larger ratio
        for other in curves:
            if all(one.losses[ratio] <= other.losses[ratio] for ratio in one.losses):
                assert ratios[one.group] <= ratios[other.group] + 1e-6


def penalty_weights(model, **settings):
    """Weights of the sparsity penalty by batch norm scale."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[scale]: weight for scale, weight in PRUNERS.build("bn_scale", **settings).sparsity_terms(model)}


def test_only_scales_of_prunable_channels_are_penalized():
    model = small_model("icnet", "resnet")
    assert not penalty_weights(model, sparsity=0.0)
    assert all((weight == 0.1).all() for weight in penalty_weights(model, sparsity=0.1).values())
    weights = penalty_weights(model, sparsity=0.1, exclude=["high", "backbone.c1"])
    assert {name for name, weight in weights.items() if not weight.any()} == {
        name for name in weights if name.startswith(("high.", "backbone.c1."))
    }
    assert (weights["cff12.low.bn.weight"] == 0.1).all()


def test_bn_scale_reports_a_missing_batch_norm():
    plain = create_model("parsenet", backbone={"name": "vgg16"}, num_classes=5, fc_channels=16)
    with pytest.raises(ConfigError, match="has no batch norm after it"):
        PRUNERS.build("bn_scale").prune_(plain, 0.5, None)


def test_excluded_layers_need_no_batch_norm():
    model = small_model("parsenet", "vgg")
    PRUNERS.build("bn_scale", allocation="uniform", exclude=["fc"]).prune_(model, 0.5, None)
    assert model.backbone.c1[0].out_channels == 32 and model.fc[0].out_channels == 32


def test_impossible_settings_are_rejected_before_training():
    model = small_model("icnet", "resnet").to("meta")
    PRUNERS.build("taylor", exclude=["backbone.c1", "high"]).check(model)
    with pytest.raises(
        ConfigError, match=r"pruner.exclude=backbone.stem matches the start of no layer's name. Similar: .*backbone"
    ) as error:
        PRUNERS.build("l1", exclude=["high", "backbone.stem"]).check(model)
    similar = str(error.value).rpartition("Similar: ")[2].rstrip(".").split(", ")
    convolutions = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(similar) == 3 and all(any(name.startswith(start) for name in convolutions) for start in similar)
    with pytest.raises(ConfigError, match="has no batch norm after it"):
        PRUNERS.build("bn_scale").check(create_model("fcn", backbone={"name": "vgg16"}, num_classes=5, fc_channels=16))
    for settings in ({"keep_ratio": 0.9999}, {"round_to": 4096}, {"round_to": 4096, "allocation": "global"}):
        with pytest.raises(ConfigError, match=r"removes none\. Set a smaller pruner.keep_ratio or pruner.round_to"):
            PRUNERS.build("l1", **settings).check(model)
    PRUNERS.build("l1", keep_ratio=1.0).check(model)  # a control that keeps everything
    PRUNERS.build("l1", keep_ratio=0.99, round_to=8, allocation="global").check(model)  # which may remove eight of one layer
    with pytest.raises(ConfigError, match="that is, never"):
        PRUNERS.build("l1", start=1.0)
    with pytest.raises(ConfigError, match="2 steps are too short for 3 pruning stages"):
        PRUNERS.build("l1", keep_schedule=[0.75, 0.5, 0.25]).stages(2)
    with pytest.raises(ConfigError, match=r"target_gmacs with pruner.allocation=global needs pruner.start=0"):
        PRUNERS.build("taylor", target_gmacs=1.0)


def test_layers_that_never_run_have_no_channels():
    model = small_model("icnet", "resnet", branches=24)
    graph = trace_channels(model)
    assert graph.groups and all(graph.producers_of(group) for group in graph.groups)
    PRUNERS.build("l1").prune_(model, 0.5, None)
    assert model(torch.zeros(1, 3, 64, 64)).main.isfinite().all()


def test_a_layer_of_zero_importance_keeps_the_common_ratio():
    graph = trace_channels(small_model("pspnet", "resnet"))
    importance = {channel: 1.0 + channel % 7 for group in graph.groups for channel in group}
    zero = graph.groups[-1]
    removed = select_channels(graph, importance | dict.fromkeys(zero, 0.0), 0.75, allocation="global")
    assert len(set(zero) & removed) == len(zero) / 4


def test_equally_important_channels_are_removed_evenly():
    graph = trace_channels(small_model("icnet", "resnet"))
    equal = {channel: 1.0 for group in graph.groups for channel in group}
    removed = select_channels(graph, equal, 0.5, allocation="global")
    for group in graph.groups:
        assert abs(len(set(group) & removed) - len(group) / 2) <= 1


@pytest.mark.integration
@pytest.mark.parametrize(
    "allocation, round_to",
    [("global", 1), *(pytest.param(*other, marks=pytest.mark.slow) for other in (("uniform", 8), ("uniform", 1), ("global", 8)))],
)
def test_several_stages_end_at_the_widths_of_one(allocation, round_to):
    staged, at_once = small_model("icnet", "resnet"), small_model("icnet", "resnet")
    initial_widths = {name: layer.out_channels for name, layer in staged.named_modules() if isinstance(layer, nn.Conv2d)}
    pruner = PRUNERS.build("l1", allocation=allocation, round_to=round_to)
    for keep_ratio in (0.9, 0.7, 0.5):
        pruner.prune_(staged, keep_ratio, None, initial_widths)
    pruner.prune_(at_once, 0.5, None)
    counts = [sum(map(len, trace_channels(model).groups)) for model in (staged, at_once)]
    if allocation == "uniform":
        assert {n: p.shape for n, p in staged.named_parameters()} == {n: p.shape for n, p in at_once.named_parameters()}
    else:
        assert counts[0] == pytest.approx(counts[1], rel=0.02 * round_to)


@pytest.mark.integration
def test_sync_batch_norm_is_pruned_like_batch_norm():
    model: Any = nn.SyncBatchNorm.convert_sync_batchnorm(small_model("icnet", "resnet"))
    for layer in model.modules():
        if isinstance(layer, nn.SyncBatchNorm):
            layer.weight.grad = torch.zeros_like(layer.weight)
    assert (penalty_weights(model, sparsity=0.1)["high.0.bn.weight"] > 0).all()
    PRUNERS.build("bn_scale", allocation="uniform").prune_(model, 0.5, None)


def test_stages_are_evenly_spaced_and_must_decrease():
    assert PRUNERS.build("l1", keep_schedule=[0.75, 0.5], start=0.5).stages(100) == [(50, 0.75), (75, 0.5)]
    assert PRUNERS.build("l1", keep_ratio=0.5, start=0.0).stages(100) == [(0, 0.5)]
    with pytest.raises(ConfigError, match="must decrease"):
        PRUNERS.build("l1", keep_schedule=[0.5, 0.75])
