"""The share of the channels that meets a target: found, rejected, kept; and the settings that all pruners have."""

from __future__ import annotations

import inspect
import json
from itertools import count
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from segzoo.api import create_model
from segzoo.pruning._base import Pruner, Target
from segzoo.pruning._settings import pruner_settings
from segzoo.registry import DATA, PRUNERS, ConfigError, settings_of
from segzoo.workflows.benchmark import runner as measured
from segzoo.workflows.benchmark import timing
from segzoo.workflows.benchmark.model_summary import describe, totals
from segzoo.workflows.prune.target_search import search, search_keep_ratio


def target(value, kind="ms"):
    return Target(kind, value, (64, 96), "eager", "fp32")


@tuned(max_examples=60, deadline=None)
@given(st.floats(0.5, 3.0), st.floats(0.0, 0.3), st.floats(0.05, 0.9), st.integers(0, 99))
def test_a_noisy_time_is_met_closely(power, fixed, wish, seed):
    """Time that grows with any power of the share beside a fixed part, known to one percent."""
    noise = torch.Generator().manual_seed(seed)

    def value(share):
        return 100 * (fixed + (1 - fixed) * share**power) * (1 + 0.01 * float(torch.rand(1, generator=noise)))

    lowest, highest = 1.02 * value(0.05), 0.99 * value(1.0)
    wanted = lowest + wish * (highest - lowest)
    tried = search(target(wanted), value, lambda line: None)
    best = max(share for share, found in tried.items() if found <= wanted)
    assert tried[best] >= 0.9 * wanted and len(tried) <= 14


def test_one_lucky_measurement_is_no_answer():
    asked: dict[float, int] = {}

    def value(share):
        asked[share] = asked.get(share, 0) + 1
        return 100 * share * (0.7 if 0.7 < share < 0.95 and asked[share] == 1 else 1)

    tried = search(target(60.0), value, lambda line: None)
    best = max(share for share, found in tried.items() if found <= 60)
    assert asked[best] == 2 and 0.55 < best <= 0.6


def test_steps_too_coarse_for_the_target_are_told():
    lines: list[str] = []
    search(target(60.0), lambda share: 20.0 if share < 0.5 else 100.0, lines.append)
    assert "no share between" in lines[-1] and "came closer" in lines[-1]


@pytest.mark.parametrize(
    "value, said", [(1000.0, "met already: 100 ms"), (1.0, "cannot be met: with 5% of the channels it is still 5 ms")]
)
def test_what_cannot_be_searched_for_is_refused(value, said):
    with pytest.raises(ConfigError, match=said):
        search(target(value), lambda share: 100 * share, lambda line: None)


@pytest.mark.parametrize("kind, wanted", [pytest.param("params", 60_000, marks=pytest.mark.slow), ("gmacs", 0.004)])
def test_the_pruned_network_meets_its_target(tmp_path, kind, wanted):
    torch.manual_seed(0)
    model: Any = create_model("icnet", backbone={"name": "resnet50", "width": 0.125, "stem": "deep"}, num_classes=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = PRUNERS.build("l1", hw=(64, 96), **{f"target_{kind}": wanted})
    data = DATA.build("parts", "val")
    share = search_keep_ratio(pruner, model, None, data, tmp_path, "cpu", lambda line: None)
    assert (
        share
        == search_keep_ratio(pruner, model, None, data, tmp_path, "cpu")
        == json.loads((tmp_path / "target_search.json").read_text())["share"]
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    pruner.prune_(model, share, None)
    found = totals(describe(model.eval().to("meta"), hw=(64, 96)))[kind]
    assert 0.9 * wanted <= found <= wanted


@pytest.mark.parametrize("changed", [{"round_to": 4}, {"exclude": ["backbone.c1"]}, {"allocation": "global"}, {"seed": 1}, "of"])
def test_a_share_that_was_found_otherwise_is_searched_for_again(tmp_path, monkeypatch, changed):
    searches = []
    monkeypatch.setattr("segzoo.workflows.prune.target_search.search", lambda *_: searches.append(0) or {0.5: 50_000.0})
    monkeypatch.setattr(Pruner, "ranking", lambda *_: None)

    def found(of, **words):
        pruner: Any = PRUNERS.build("random", target_params=60_000, start=0.0, **words)
        return search_keep_ratio(pruner, None, None, DATA.build("parts", "val"), tmp_path, "cpu", of=of)

    of = {"data": {"name": "parts"}, "init": None}
    assert found(of) == found(of) == 0.5 and len(searches) == 1
    found(of | {"init": "run"}) if changed == "of" else found(of, **changed)
    assert len(searches) == 2


def test_a_time_is_measured(tmp_path):
    model: Any = create_model("fcn_dilated", backbone={"name": "resnet50", "width": 0.25}, num_classes=4)
    pruner = PRUNERS.build("l1", hw=(64, 96), target_ms=1e9, precision="fp32")
    with pytest.raises(ConfigError, match="is met already"):
        search_keep_ratio(pruner, model, None, DATA.build("parts", "val"), tmp_path, "cpu", lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_changes_its_speed_moves_no_answer(tmp_path, monkeypatch):
    """Times that follow the parameters, on a machine at half speed while the first network is measured."""
    model: Any = create_model("fcn_dilated", backbone={"name": "resnet50", "width": 0.25}, num_classes=4)
    calls = count()

    def clock(network):
        size = sum(parameter.numel() for parameter in network.parameters())
        return lambda: size * 1e-9 * (2 if next(calls) < 40 else 1)

    monkeypatch.setattr(timing, "_clock", clock)
    monkeypatch.setattr(measured, "make_segmenter", lambda network, *others: network)
    whole = sum(parameter.numel() for parameter in model.parameters())
    pruner = PRUNERS.build("l1", hw=(64, 96), target_ms=0.6 * whole * 1e-6, precision="fp32")
    share = search_keep_ratio(pruner, model, None, DATA.build("parts", "val"), tmp_path, "cpu", lambda line: None)
    pruner.prune_(model, share, None)
    assert 0.54 * whole <= sum(parameter.numel() for parameter in model.parameters()) <= 0.62 * whole


@pytest.mark.parametrize("words", [{"keep_schedule": [0.5], "target_ms": 3.0}, {"target_gmacs": 1.0, "target_params": 10.0}])
def test_one_word_says_how_many_channels_stay(words):
    with pytest.raises(ConfigError, match="both say how many channels stay"):
        PRUNERS.build("l1", **words)


def test_every_pruner_has_the_shared_settings_and_its_own():
    shared = set(inspect.signature(pruner_settings).parameters)
    for name in PRUNERS.names():
        if name != "none":
            assert set(settings_of(PRUNERS.get(name))) == shared | ({"seed"} if name == "random" else set())
