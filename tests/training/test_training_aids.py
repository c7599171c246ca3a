"""Skipped steps, averaged weights, early stopping, frozen stages and mixed images."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import torch
from fake_cuda import Operations
from safetensors.torch import load_file
from torch import nn
from toy_training import Toy, ToyLoss, make_components, make_run_dir, settings, train, weights_hash

from segzoo.api import create_model
from segzoo.checkpoints.serialization import read_model, read_trainer
from segzoo.checkpoints.store import list_checkpoints, read_pointer
from segzoo.optim.ema import ModelEma
from segzoo.registry import BACKBONES, INITS, MIXES
from segzoo.training.results import discard_lost_scores
from segzoo.training.state import Diverged


class NanAt(ToyLoss):
    """Returns NaN in the given calls, counted from 1."""

    def __init__(self, *calls: int):
        super().__init__()
        self.nan_calls, self.calls = calls, 0

    def terms(self, logits, label, weight=None):
        self.calls += 1
        return super().terms(logits, label, weight) * (float("nan") if self.calls in self.nan_calls else 1.0)


def test_a_bad_step_changes_nothing_not_even_running_statistics(tmp_path, capsys):
    options = settings(steps=3, eval_every=3, save_every=1, max_nonfinite_steps=1, keep_checkpoints=9)
    components = make_components(loss=NanAt(2))
    train(components, make_run_dir(tmp_path), **options)
    one, two, three = (load_file(tmp_path / f"checkpoints/{step}/model.safetensors") for step in (1, 2, 3))
    assert all(torch.equal(one[name], two[name]) for name in one if "num_batches" not in name)
    assert not torch.equal(two["head.weight"], three["head.weight"])
    printed = capsys.readouterr().out
    assert "step skipped (1 in a row, at most 1 allowed): the loss is nan at step 2, on toy" in printed
    states = [read_trainer(tmp_path / f"checkpoints/{step}") for step in (1, 2, 3)]
    assert [state["nonfinite_steps"] for state in states] == [0, 1, 0]


def test_consecutive_bad_steps_end_the_run_even_across_a_resume(tmp_path):
    options = settings(steps=6, save_every=1, eval_every=6, max_nonfinite_steps=2, keep_checkpoints=9)
    with pytest.raises(Diverged, match=r"the loss is nan at step 5.*resume with resume=<run directory>"):
        train(make_components(loss=NanAt(3, 4, 5)), make_run_dir(tmp_path), **options)
    assert list_checkpoints(tmp_path)[-1] == 4
    with pytest.raises(Diverged, match="at step 5"):
        train(make_components(loss=NanAt(1)), make_run_dir(tmp_path), **options)
    train(make_components(), make_run_dir(tmp_path), **options)
    assert list_checkpoints(tmp_path)[-1] == 6


@pytest.mark.integration
@pytest.mark.parametrize("rate, message", [(3e3, "validation loss"), (1e6, "holds a weight")])
def test_a_diverged_run_keeps_its_best_and_resumes_with_a_lower_rate(tmp_path, rate, message):
    options = settings(steps=8, eval_every=2, save_every=None, keep_checkpoints=9)

    def with_rate(late):
        components = make_components()
        components.make_optimizer = lambda net: torch.optim.AdamW(net.parameters(), lr=0.01)
        components.make_schedule = lambda total: lambda step: 1.0 if step < 4 else late / 0.01
        return components

    with pytest.raises(Diverged, match=rf"{message}.* at step 6.*lower optim.lr.*resume="):
        train(with_rate(rate), make_run_dir(tmp_path), **options)
    assert list_checkpoints(tmp_path) == [0, 2, 4]
    best, summary = read_pointer(tmp_path, "best"), json.loads((tmp_path / "eval/summary.json").read_text())
    assert best is not None and int(best.name) <= 4 and summary["checkpoint_sha256"] == read_model(tmp_path)[1]["sha256"]
    assert train(with_rate(0.001), make_run_dir(tmp_path), **options)["steps"] == 8


def test_the_average_follows_its_decay_after_a_warmup():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema, mean = ModelEma(model, 0.9), model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.add_(torch.randn_like(model.weight))
        ema.update()
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * model.weight.detach()
    trained = model.weight.detach().clone()
    with ema.applied():
        torch.testing.assert_close(model.weight.detach(), mean)
    assert torch.equal(model.weight, trained)


def test_all_tensors_are_averaged_in_a_few_operations_with_the_same_bits():
    torch.manual_seed(0)
    model = nn.Sequential(Toy(), nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.Linear(3, 2).half())  # type: ignore[call-overload]
    ema = ModelEma(model, 0.99)
    for step in range(1, 4):
        expected = {name: tensor.clone() for name, tensor in ema.tensors.items()}
        for tensor in model.state_dict().values():
            tensor.add_(torch.randn(tensor.shape).to(tensor.dtype)) if tensor.is_floating_point() else tensor.add_(1)
        for name, tensor in model.state_dict().items():
            is_float = tensor.is_floating_point()
            expected[name].lerp_(tensor, 1 - (1 + step) / (10 + step)) if is_float else expected[name].copy_(tensor)
        with Operations() as operations:
            ema.update()
        assert operations.count == 3  # one for each type
        assert all(torch.equal(ema.tensors[name], tensor) for name, tensor in expected.items())


def test_the_average_holds_the_latest_counts_and_averages_statistics():
    model = nn.BatchNorm1d(2)
    ema = ModelEma(model, 0.5)
    for _ in range(3):
        model.train()(torch.randn(4, 2) + 5)
        ema.update()
    trained = model.get_buffer("running_mean").clone()
    with ema.applied():
        assert model.num_batches_tracked == 3 and (model.get_buffer("running_mean") < trained).all()


def test_a_run_with_ema_stores_the_average_and_resumes_bit_for_bit(tmp_path):
    options = settings(steps=8, eval_every=4, save_every=4, ema_decay=0.5, keep_checkpoints=9)
    whole = make_components()
    train(whole, make_run_dir(tmp_path / "whole"), **options)
    stored, state = read_model(tmp_path / "whole/checkpoints/8")[0], read_trainer(tmp_path / "whole/checkpoints/8")
    trained = state["ema"]["trained"]
    assert not torch.equal(stored["head.weight"], trained["head.weight"])
    assert torch.equal(whole.model.state_dict()["head.weight"], trained["head.weight"])
    run = make_run_dir(tmp_path / "again")
    run.resume_from = tmp_path / "whole/checkpoints/4"
    again = make_components()
    train(again, run, **options)
    assert weights_hash(again.model) == weights_hash(whole.model)
    assert all(torch.equal(read_model(tmp_path / "again/checkpoints/8")[0][name], stored[name]) for name in stored)


def test_a_run_that_drops_ema_continues_with_the_trained_weights():
    model = nn.Linear(3, 2)
    ema = ModelEma(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update()
    trained = model.weight.detach().clone()
    with ema.applied():  # as checkpoints hold the average
        other, saved = nn.Linear(3, 2), deepcopy(ema.state())
        other.load_state_dict(model.state_dict())
    assert not torch.equal(other.weight, trained)
    ModelEma(other, None).restore(saved)
    assert torch.equal(other.weight, trained)


def test_a_skipped_step_leaves_the_average_alone(tmp_path):
    options = settings(steps=3, eval_every=3, save_every=1, max_nonfinite_steps=1, keep_checkpoints=9, ema_decay=0.9)
    train(make_components(loss=NanAt(2)), make_run_dir(tmp_path), **options)
    before, after = (read_trainer(tmp_path / f"checkpoints/{step}")["ema"] for step in (1, 2))
    assert before["steps"] == after["steps"] == 1
    one, two = (load_file(tmp_path / f"checkpoints/{step}/model.safetensors") for step in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one if "num_batches" not in name)


def test_a_run_without_better_scores_stops_early(tmp_path, capsys):
    components = make_components()
    components.make_schedule = lambda total: lambda step: 0.0  # nothing is learned, so the first score stays the best
    for module in components.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    result = train(components, make_run_dir(tmp_path), **settings(steps=40, eval_every=2, early_stopping_patience=3))
    assert result["steps"] == 8 and read_pointer(tmp_path, "best") == tmp_path / "checkpoints/2"
    assert "no better mIoU in 3 evaluations, stopping at step 8" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "val"] == [2, 4, 6, 8]


def test_settings_that_a_short_run_leaves_idle_are_named(tmp_path, capsys):
    components = make_components()
    components.config["schedule"] = {"name": "step", "every": 12}
    train(components, make_run_dir(tmp_path / "short"), **settings(early_stopping_patience=2))
    text = capsys.readouterr().out
    assert "note: early_stopping_patience=2 has no effect: the run has 3 evaluations." in text
    assert "note: schedule=step has no effect: the first decay is after schedule.every=12 steps of 12." in text
    components = make_components()
    components.config["schedule"] = {"name": "step", "every": 11}
    train(components, make_run_dir(tmp_path / "enough"), **settings(early_stopping_patience=1))
    assert "has no effect" not in capsys.readouterr().out


def test_patience_counts_the_evaluations_at_whatever_interval(tmp_path):
    def still(steps: int, **changes):
        components = make_components()
        components.make_schedule = lambda total: lambda step: 0.0
        for module in components.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
        return train(components, make_run_dir(tmp_path), **settings(steps=steps, **changes))

    still(8, eval_every=4)  # the best at step 4, and one evaluation after it
    assert still(40, eval_every=2, early_stopping_patience=3)["steps"] == 12


@pytest.mark.parametrize("name, options", [("resnet50", {"width": 0.125}), ("vgg16", {"batch_norm": True})])
def test_frozen_stages_keep_weights_and_statistics(name, options):
    small: dict[str, Any] = {"fc_channels": 8} if name == "vgg16" else {}
    model: Any = create_model("fcn", backbone={"name": name} | options, num_classes=3, **small)
    INITS.build("checkpoint", model, None, freeze=("c1", "c2"))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    nn.init.normal_(model.score.weight)
    model.train()(torch.randn(2, 3, 64, 64)).main.square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    frozen = [key for key in before if key.startswith(("backbone.c1.", "backbone.c2."))]
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    trained = [key for key in before if key.startswith("backbone.c3.") and "running_mean" in key]
    assert trained and not any(torch.equal(before[key], after[key]) for key in trained)
    assert BACKBONES.build(name, **options).train().frozen == ()


@pytest.mark.integration
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_images_resume_bit_for_bit(tmp_path, name):
    def with_mixing():
        components = make_components()
        components.mix = MIXES.build(name, alpha=1.0, prob=0.8)
        return components

    options = settings(steps=8, eval_every=8, save_every=4, keep_checkpoints=9)
    plain, whole, again = make_components(), with_mixing(), with_mixing()
    train(plain, make_run_dir(tmp_path / "plain"), **options)
    train(whole, make_run_dir(tmp_path / "whole"), **options)
    run = make_run_dir(tmp_path / "again")
    run.resume_from = tmp_path / "whole/checkpoints/4"
    train(again, run, **options)
    assert weights_hash(again.model) == weights_hash(whole.model) != weights_hash(plain.model)
    assert isinstance(again.model, Toy)


def test_batch_norm_momentum_is_a_setting(tmp_path):
    """One step from statistics of zero and one: the mean of the batch enters with the given weight."""
    means = {}
    for momentum in (0.05, 0.1):
        torch.manual_seed(0)
        components = make_components(model=Toy())
        train(components, make_run_dir(tmp_path / str(momentum)), **settings(steps=1, bn_momentum=momentum))
        means[momentum] = next(m for m in components.model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean
    torch.testing.assert_close(2 * means[0.05], means[0.1])
    assert means[0.1].abs().max() > 0


def test_scores_of_a_checkpoint_that_is_lost_are_removed(tmp_path):
    components = make_components()
    train(components, make_run_dir(tmp_path), **settings(steps=4, eval_every=2, save_every=2, keep_checkpoints=9))
    summary = tmp_path / "eval/summary.json"
    discard_lost_scores(tmp_path)
    assert summary.exists()
    content = json.loads(summary.read_text()) | {"checkpoint_sha256": "of a checkpoint that was damaged and deleted"}
    summary.write_text(json.dumps(content))
    run = make_run_dir(tmp_path)
    run.resume_from = tmp_path / "checkpoints/4"
    train(make_components(), run, **settings(steps=4, eval_every=2, save_every=2, keep_checkpoints=9))
    assert not summary.exists()
