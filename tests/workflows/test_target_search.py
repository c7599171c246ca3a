"""The search for the keep ratio of a target, and pruner settings."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import make_components

from segzoo.api import create_model
from segzoo.distributed import SINGLE_PROCESS
from segzoo.pruning._base import NoCalibration, Pruner, Target
from segzoo.pruning._settings import build_pruner
from segzoo.registry import DATA, PRUNERS, ConfigError, settings_of
from segzoo.workflows.benchmark import runner, timing
from segzoo.workflows.benchmark.model_summary import describe, totals
from segzoo.workflows.prune.target_search import resolve_keep_ratio, search, search_keep_ratio

NO_CALIBRATION = NoCalibration()


def target(value, kind="ms"):
    return Target(kind, value, (64, 96), "eager", "fp32")


@settings(max_examples=60, deadline=None)
@given(st.floats(0.5, 3.0), st.floats(0.0, 0.3), st.floats(0.05, 0.9), st.integers(0, 99))
def test_a_noisy_latency_is_met_closely(power, fixed, position, seed):
    """A fixed latency plus any power of the ratio, with 1% noise."""
    noise = torch.Generator().manual_seed(seed)

    def cost(ratio):
        return 100 * (fixed + (1 - fixed) * ratio**power) * (1 + 0.01 * float(torch.rand(1, generator=noise)))

    lowest, highest = 1.02 * cost(0.05), 0.99 * cost(1.0)
    limit = lowest + position * (highest - lowest)
    trials = search(target(limit), cost, lambda line: None)
    best = max(ratio for ratio, value in trials.items() if value <= limit)
    assert trials[best] >= 0.9 * limit and len(trials) <= 14


def test_one_lucky_measurement_is_not_accepted():
    calls: dict[float, int] = {}

    def cost(ratio):
        calls[ratio] = calls.get(ratio, 0) + 1
        return 100 * ratio * (0.7 if 0.7 < ratio < 0.95 and calls[ratio] == 1 else 1)

    trials = search(target(60.0), cost, lambda line: None)
    best = max(ratio for ratio, value in trials.items() if value <= 60)
    assert calls[best] == 2 and 0.55 < best <= 0.6


def test_steps_too_coarse_for_the_target_are_reported():
    lines: list[str] = []
    search(target(60.0), lambda ratio: 20.0 if ratio < 0.5 else 100.0, lines.append)
    assert "no ratio between" in lines[-1] and "gets closer to the target" in lines[-1]


@pytest.mark.parametrize(
    "value, message",
    [(1000.0, "already met without pruning: 100 ms"), (1.0, "cannot be met: with 5% of the channels it is still 5 ms")],
)
def test_targets_out_of_reach_are_rejected(value, message):
    with pytest.raises(ConfigError, match=message):
        search(target(value), lambda ratio: 100 * ratio, lambda line: None)


@pytest.mark.integration
@pytest.mark.parametrize("kind, limit", [pytest.param("params", 60_000, marks=pytest.mark.slow), ("gmacs", 0.004)])
def test_the_pruned_model_meets_its_target(tmp_path, kind, limit):
    torch.manual_seed(0)
    model: Any = create_model("icnet", backbone={"name": "resnet50", "width": 0.125, "stem": "deep"}, num_classes=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = PRUNERS.build("l1", hw=(64, 96), **{f"target_{kind}": limit})
    dataset = DATA.build("parts", "val")
    ratio = search_keep_ratio(pruner, model, NO_CALIBRATION, dataset, tmp_path, "cpu", lambda line: None)
    assert (
        ratio
        == search_keep_ratio(pruner, model, NO_CALIBRATION, dataset, tmp_path, "cpu")
        == json.loads((tmp_path / "target_search.json").read_text())["keep_ratio"]
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    pruner.prune_(model, ratio, None)
    reached = totals(describe(model.eval().to("meta"), hw=(64, 96)))[kind]
    assert 0.9 * limit <= reached <= limit


@pytest.mark.parametrize(("ratio", "allocation"), [(0.2, "uniform"), (0.25, "uniform"), (0.3, "sensitivity")])
def test_a_ratio_below_all_that_are_scanned_is_uniform(tmp_path, monkeypatch, capsys, ratio, allocation):
    """There both are equal, and the search has succeeded."""
    components = make_components()
    components.pruner = PRUNERS.build("l1", start=0.0, target_params=100, allocation="sensitivity")
    monkeypatch.setattr("segzoo.workflows.prune.target_search.search_keep_ratio", lambda *arguments, **settings: ratio)
    resolve_keep_ratio(components, tmp_path, SINGLE_PROCESS, device="cpu", precision="fp32")
    assert (
        components.pruner is not None and components.pruner.allocation == allocation and components.pruner.keep_ratios == (ratio,)
    )
    assert ("has the effect of uniform" in capsys.readouterr().out) == (allocation == "uniform")


@pytest.mark.parametrize(
    "changed", [{"round_to": 4}, {"exclude": ["backbone.c1"]}, {"allocation": "global"}, {"seed": 1}, "depends_on"]
)
def test_a_stored_ratio_is_searched_again_if_anything_it_depends_on_changed(tmp_path, monkeypatch, changed):
    searches = []
    monkeypatch.setattr("segzoo.workflows.prune.target_search.search", lambda *_: searches.append(0) or {0.5: 50_000.0})
    monkeypatch.setattr(Pruner, "ranking", lambda *_: None)

    def ratio(depends_on, **settings):
        pruner: Any = PRUNERS.build("random", target_params=60_000, start=0.0, **settings)
        model: Any = None
        return search_keep_ratio(pruner, model, NO_CALIBRATION, DATA.build("parts", "val"), tmp_path, "cpu", depends_on=depends_on)

    depends_on = {"data": {"name": "parts"}, "init": None}
    assert ratio(depends_on) == ratio(depends_on) == 0.5 and len(searches) == 1
    ratio(depends_on | {"init": "run"}) if changed == "depends_on" else ratio(depends_on, **changed)
    assert len(searches) == 2


@pytest.mark.integration
def test_a_latency_is_measured(tmp_path):
    model: Any = create_model("fcn_dilated", backbone={"name": "resnet50", "width": 0.25}, num_classes=4)
    pruner = PRUNERS.build("l1", hw=(64, 96), target_ms=1e9, precision="fp32")
    with pytest.raises(ConfigError, match="is already met"):
        search_keep_ratio(pruner, model, NO_CALIBRATION, DATA.build("parts", "val"), tmp_path, "cpu", lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_machine_that_changes_its_speed_does_not_change_the_result(tmp_path, monkeypatch):
    """Latency proportional to parameters, at half speed during the first measurement."""
    model: Any = create_model("fcn_dilated", backbone={"name": "resnet50", "width": 0.25}, num_classes=4)
    calls = count()

    def clock(network):
        params = sum(parameter.numel() for parameter in network.parameters())
        return lambda: params * 1e-9 * (2 if next(calls) < 40 else 1)

    monkeypatch.setattr(timing, "_clock", clock)
    monkeypatch.setattr(runner, "make_segmenter", lambda network, *others: network)
    total = sum(parameter.numel() for parameter in model.parameters())
    pruner = PRUNERS.build("l1", hw=(64, 96), target_ms=0.6 * total * 1e-6, precision="fp32")
    ratio = search_keep_ratio(pruner, model, NO_CALIBRATION, DATA.build("parts", "val"), tmp_path, "cpu", lambda line: None)
    pruner.prune_(model, ratio, None)
    assert 0.54 * total <= sum(parameter.numel() for parameter in model.parameters()) <= 0.62 * total


@pytest.mark.parametrize("settings", [{"keep_schedule": [0.5], "target_ms": 3.0}, {"target_gmacs": 1.0, "target_params": 10.0}])
def test_only_one_setting_may_determine_how_many_channels_are_kept(settings):
    with pytest.raises(ConfigError, match="each determine how many channels are kept"):
        PRUNERS.build("l1", **settings)


def test_every_pruner_has_the_shared_settings_and_its_own():
    shared = set(settings_of(build_pruner))
    for name in PRUNERS.names():
        if name != "none":
            assert set(settings_of(PRUNERS.get(name))) == shared | ({"seed"} if name == "random" else set())
            assert PRUNERS.build(name).criterion == name


def test_a_pruner_holds_the_settings_of_its_criterion():
    assert PRUNERS.build("random", seed=3).settings == {"seed": 3}
    assert PRUNERS.build("random").settings == {"seed": 0} and PRUNERS.build("l1").settings == {}
