"""Parameter groups of the optimizers, and schedules compared with torch's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR, StepLR

from segzoo.registry import OPTIMS, SCHEDULES, ConfigError


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Scale())
        self.head = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def groups(model, name="sgd", **settings):
    return {group["name"]: group for group in OPTIMS.build(name, model, **settings).param_groups}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_every_parameter_is_in_its_group(name):
    model = Net()
    actual = groups(model, name, lr=0.1, weight_decay=0.01, head_lr_mult=10.0, bias_lr_mult=2.0)
    backbone, head = model.backbone, model.head
    expected = {
        "backbone.weight": ([backbone[0].weight], 0.1, 0.01),
        "backbone.norm": ([backbone[1].weight, backbone[1].bias, backbone[2].scale], 0.1, 0.0),
        "backbone.bias": ([backbone[0].bias], 0.2, 0.0),
        "head.weight": ([head[0].weight, head[2].weight], 1.0, 0.01),
        "head.norm": ([head[1].weight, head[1].bias], 1.0, 0.0),
        "head.bias": ([head[2].bias], 2.0, 0.0),
    }
    assert set(actual) == set(expected)
    for group, (parameters, rate, decay) in expected.items():
        assert [id(p) for p in actual[group]["params"]] == [id(p) for p in parameters]
        assert actual[group]["lr"] == actual[group]["base_lr"] == pytest.approx(rate)
        assert actual[group]["weight_decay"] == decay


def test_decay_norm_and_bias_applies_to_every_group():
    assert {group["weight_decay"] for group in groups(Net(), weight_decay=0.03, decay_norm_and_bias=True).values()} == {0.03}


def test_frozen_parameters_are_skipped_and_shared_ones_counted_once():
    model = Net()
    model.backbone.requires_grad_(False)
    model.head.append(model.head[0])
    actual = groups(model)
    assert set(actual) == {"head.weight", "head.norm", "head.bias"} and len(actual["head.weight"]["params"]) == 2
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        OPTIMS.build("sgd", model.requires_grad_(False))


def test_settings_reach_the_optimizer():
    sgd = OPTIMS.build("sgd", Net(), momentum=0.8, nesterov=True)
    assert isinstance(sgd, torch.optim.SGD) and sgd.param_groups[-1]["momentum"] == 0.8 and sgd.param_groups[-1]["nesterov"]
    adamw = OPTIMS.build("adamw", Net(), betas=[0.8, 0.95], eps=1e-6)
    assert (
        isinstance(adamw, torch.optim.AdamW)
        and adamw.param_groups[0]["betas"] == (0.8, 0.95)
        and adamw.param_groups[0]["eps"] == 1e-6
    )


@pytest.mark.parametrize(
    ("name", "reference"),
    [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_steps_equal_those_of_torch(name, reference):
    """The optimizers leave out decorators of torch, and nothing else."""
    torch.manual_seed(0)
    models = [Net(), Net()]
    models[1].load_state_dict(models[0].state_dict())
    own = OPTIMS.build(name, models[0], lr=0.1, weight_decay=0.1)
    arguments = {key: own.defaults[key] for key in own.defaults if key in ("lr", "momentum", "betas", "fused")}
    groups = [
        {
            **group,
            "params": [
                dict(models[1].named_parameters())[key] for key, p in models[0].named_parameters() if p in set(group["params"])
            ],
        }
        for group in own.param_groups
    ]
    optimizers = [own, reference(groups, **arguments)]
    images, calls = torch.randn(2, 3, 9, 9), []
    own.register_step_post_hook(lambda *_: calls.append(1))
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model.head(model.backbone[:2](images)).square().mean().backward()
            optimizer.step()
        if step == 1:
            own.load_state_dict(own.state_dict())
    assert len(calls) == 3 and all(p.grad is None for p in (own.zero_grad(), *models[0].parameters())[1:])
    for actual, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(actual, expected)
    assert str(own.state_dict()) == str(optimizers[1].state_dict())


@pytest.mark.parametrize(
    "settings", [{"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}, {"momentum": 1.5}, {"weight_decay": -1e-4}], ids=str
)
def test_out_of_range_settings_are_rejected(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        OPTIMS.build("sgd", Net(), **settings)


def test_group_names_and_rates_survive_a_checkpoint():
    optimizer = OPTIMS.build("sgd", Net(), lr=0.1, head_lr_mult=10.0)
    other = OPTIMS.build("sgd", Net(), lr=0.1, head_lr_mult=10.0)
    other.load_state_dict(optimizer.state_dict())
    assert [(g["name"], g["base_lr"]) for g in other.param_groups] == [(g["name"], g["base_lr"]) for g in optimizer.param_groups]


TORCH = {
    "poly": lambda optimizer: PolynomialLR(optimizer, 40, 0.9),
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 40),
    "step": lambda optimizer: StepLR(optimizer, 15, 0.3),
}


@pytest.mark.parametrize("name", TORCH)
def test_schedules_equal_torch(name):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = TORCH[name](optimizer)
    factor = SCHEDULES.build(name, 40, **({"every": 15, "gamma": 0.3} if name == "step" else {}))
    for step in range(41):
        assert factor(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-7)
        optimizer.step()
        scheduler.step()


@given(st.sampled_from(["poly", "cosine", "step", "fixed"]), st.integers(1, 300), st.floats(0, 1), st.data())
@settings(max_examples=80, deadline=None)
def test_schedules_warm_up_then_never_increase(name, total, low, data):
    warmup = data.draw(st.integers(0, total))
    floors = {"floor": data.draw(st.floats(0, 1))} if name in ("poly", "cosine") else {}
    options = {"every": 7, **floors} if name == "step" else floors
    factor = SCHEDULES.build(name, total, warmup=warmup, warmup_factor=low, **options)
    plain = SCHEDULES.build(name, total, **options)
    assert plain(0) == pytest.approx(1) and factor(0) == pytest.approx(low if warmup else 1)
    values = [factor(step) for step in range(total + 5)]
    assert values[warmup:] == [plain(step) for step in range(warmup, total + 5)]
    assert all(later <= earlier + 1e-12 for earlier, later in zip(values[warmup:], values[warmup + 1 :], strict=False))
    assert all(floors.get("floor", 0) - 1e-12 <= plain(step) <= 1 + 1e-12 for step in range(total + 5))
    assert name in ("step", "fixed") or factor(total) == pytest.approx(floors["floor"], abs=1e-12)


@pytest.mark.parametrize("name", ["poly", "cosine", "step", "fixed"])
def test_warm_up_is_a_linear_ramp(name):
    options = {"every": 50} if name == "step" else {}
    factor, plain = SCHEDULES.build(name, 40, warmup=10, warmup_factor=0.2, **options), SCHEDULES.build(name, 40, **options)
    assert [factor(step) / plain(step) for step in range(12)] == pytest.approx([0.2 + 0.08 * step for step in range(10)] + [1, 1])


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_schedule_that_starts_later_equals_one_of_the_remaining_steps(name):
    options = {"every": 7, "gamma": 0.5} if name == "step" else {}
    late, short = (SCHEDULES.build(name, steps, warmup=4, start=start, **options) for steps, start in ((40, 15), (25, 0)))
    assert [late(15 + step) for step in range(30)] == [short(step) for step in range(30)]
    assert {late(step) for step in range(15)} == {short(0)}
    with pytest.raises(ConfigError, match=r"schedule.start=40: the run has only 40 steps"):
        SCHEDULES.build(name, 40, start=40)


def test_warmup_longer_than_the_run_is_rejected():
    with pytest.raises(ConfigError, match=r"schedule.warmup=50: the run has only 20 steps"):
        SCHEDULES.build("poly", 20, warmup=50)
